"""``nextify diff A B``: show the differences between two networks."""

from dataclasses import asdict, dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from nextify.cli.options import Json
from nextify.cli.printing import print_columns, print_json
from nextify.networks.layout import cost
from nextify.networks.zoo import find_design
from nextify.paper.settings import Range
from nextify.report.diagram import layer_differences
from nextify.report.text import ABSENT


@dataclass(frozen=True)
class Options:
    """Show the differences between two networks: design decisions, layers (each stage's first block) and cost."""

    before: Annotated[Positional[str], arg(metavar="A")]
    """A name listed by `nextify models`, e.g. resnet50_move_up."""
    after: Annotated[Positional[str], arg(metavar="B")]
    """Another such name, e.g. resnet50_kernel_7."""
    image_size: Annotated[int, Range(least=1, most=10**5)] = 224
    """Height and width of the images in pixels, for the multiply-adds."""
    num_classes: Annotated[int, Range(least=0, most=10**8)] = 1000
    """Number of classes."""
    json: Json = False


def run(options: Options) -> int:
    before, after = find_design(options.before), find_design(options.after)
    decisions = before.differences(after)
    layers = layer_differences(before, after)
    costs = [cost(design, options.image_size, options.num_classes) for design in (before, after)]
    if options.json:
        print_json(
            {
                "before": options.before,
                "after": options.after,
                "image_size": options.image_size,
                "decisions": {name: {"before": a, "after": b} for name, (a, b) in decisions.items()},
                "layers": [asdict(change) for change in layers],
                "cost": {"before": asdict(costs[0]), "after": asdict(costs[1])},
            }
        )
        return 0
    print(f"{options.before} → {options.after}")
    if not decisions:
        print("\nThe architectures are the same.")
    for name, (a, b) in decisions.items():
        print(f"  {name}: {_value(a)} → {_value(b)}")
    width = max((len(change.before or ABSENT) for change in layers), default=0)
    part = ""
    for change in layers:
        if change.part != part:
            part = change.part
            print(f"\n{part}")
        print(f"  {change.before or ABSENT:<{width}}  →  {change.after or ABSENT}")
    print()
    rows = []
    for name in ("parameters", "macs", "activations"):
        a, b = (getattr(price, name) for price in costs)
        title = "multiply-adds" if name == "macs" else name
        rows.append((title, f"{a:,}", f"{b:,}", f"{b - a:+,}", f"{100 * (b - a) / a:+.1f} %"))
    print_columns((f"at {options.image_size}×{options.image_size}", "before", "after", "change", ""), rows)
    return 0


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
