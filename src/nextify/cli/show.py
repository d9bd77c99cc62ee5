"""``nextify show NAME``: show a network's blocks, cost, and a drawing of its block."""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from nextify.cli.options import Changes, Json, unset
from nextify.cli.printing import note, print_columns, print_json
from nextify.cli.settings import settings
from nextify.networks.layout import Cost, cost, cost_by_part, layout, walk
from nextify.networks.zoo import find_design
from nextify.paper.design import Design, InertChoice
from nextify.paper.published import published_gflops, published_top1
from nextify.paper.settings import Range
from nextify.report.block_drawing import block_svg
from nextify.report.diagram import block_lines, block_text
from nextify.system.files import write_text_atomic


@dataclass(frozen=True)
class Options:
    """Show one network: its blocks, and the cost of each stage."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A name listed by `nextify models`."""
    image_size: Annotated[int, Range(least=1, most=10**5)] = 224
    """Height and width of the images in pixels."""
    num_classes: Annotated[int, Range(least=0, most=10**8)] = 1000
    """Number of classes; 0 omits the classifier."""
    set: Changes = ()
    """Change a design decision, e.g. --set kernel_size=9 --set norm=batch."""
    svg: Annotated[Path | None, unset(metavar="FILE")] = None
    """Also draw the first stage's block, like the paper's Figure 4, to this file."""
    json: Json = False


def run(options: Options) -> int:
    design = find_design(options.name).with_(**settings(options.set, [Design]))
    with warnings.catch_warnings(record=True) as inert:
        warnings.simplefilter("always", InertChoice)
        design.warn_of_inert_choices()
    note(*(warning.message for warning in inert))
    size, classes = options.image_size, options.num_classes
    parts = cost_by_part(design, size, classes)
    total = cost(design, size, classes)
    outputs = {placed.part: (placed.height, placed.width) for placed in walk(layout(design), size, classes)}
    resolution = {"head": (1, 1), **outputs}
    if options.svg is not None:
        write_text_atomic(options.svg, block_svg(design))
    if options.json:
        print_json(
            {
                "name": options.name,
                "image_size": size,
                "num_classes": classes,
                "design": asdict(design),
                "blocks": [{"place": place, "layers": text} for place, text in block_lines(design)],
                "parts": [{"part": p, "resolution": resolution[p], **asdict(c)} for p, c in parts.items()],
                "total": asdict(total),
                "published_gflops": None if options.set else published_gflops(options.name),
                "published_top1": None if options.set else published_top1(options.name),
            }
        )
        return 0
    print(f"{' '.join((options.name, *options.set))}\n\n{block_text(design)}\n")
    rows = [(p, f"{resolution[p][0]}×{resolution[p][1]}", *_figures(price)) for p, price in parts.items()]
    rows.append(("total", "", *_figures(total)))
    print_columns((f"at {size}×{size}", "resolution", "parameters", "multiply-adds", "activations"), rows)
    top1, gflops = published_top1(options.name), published_gflops(options.name)
    if gflops is not None and not options.set:
        accuracy = f"; top-1 on ImageNet-1K {top1:g} %" if top1 is not None else ""
        print(f"\nPublished, at 224×224: {gflops:g} G multiply-adds{accuracy}")
    if options.svg is not None:
        print(f"\nDrawn to {options.svg}")
    return 0


def _figures(price: Cost) -> tuple[str, str, str]:
    return f"{price.parameters:,}", f"{price.macs:,}", f"{price.activations:,}"
