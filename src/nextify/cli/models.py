"""``nextify models [PATTERN]``: list the named networks."""

from dataclasses import dataclass

from tyro.conf import Positional

from nextify.cli.options import Json
from nextify.cli.printing import print_columns, print_json
from nextify.networks.layout import cost
from nextify.networks.zoo import UnknownModel, find_design, list_models
from nextify.paper.published import published_gflops, published_top1
from nextify.report.text import ABSENT


@dataclass(frozen=True)
class Options:
    """List the named networks with parameters, multiply-adds at 224x224 and the paper's ImageNet-1K top-1."""

    pattern: Positional[str] = "*"
    """List only names that match, e.g. 'convnext_*' or 'resnet50_*'."""
    json: Json = False


def run(options: Options) -> int:
    names = list_models(options.pattern)
    if not names:
        raise UnknownModel(f"no model matches {options.pattern!r}; nextify models lists all")
    costs = {name: cost(find_design(name)) for name in names}
    if options.json:
        print_json(
            [
                {
                    "name": name,
                    "parameters": price.parameters,
                    "macs": price.macs,
                    "published_gflops": published_gflops(name),
                    "published_top1": published_top1(name),
                }
                for name, price in costs.items()
            ]
        )
        return 0
    rows = []
    for name, price in costs.items():
        top1, gflops = published_top1(name), published_gflops(name)
        figures = (f"{price.parameters / 1e6:.2f} M", f"{price.macs / 1e9:.2f} G")
        paper = (ABSENT if gflops is None else f"{gflops:g} G", ABSENT if top1 is None else f"{top1:g} %")
        rows.append((name, *figures, *paper))
    print_columns(("name", "parameters", "multiply-adds", "as published", "top-1, published"), rows)
    return 0
