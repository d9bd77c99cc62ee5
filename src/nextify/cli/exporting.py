"""Running ``nextify export``."""

from dataclasses import asdict
from functools import partial

from rich.console import Console

from nextify.cli.export import Options
from nextify.cli.printing import note, print_columns, print_json
from nextify.cli.progress import read_any, read_images
from nextify.cli.quantizing import no_search, search
from nextify.data import Images
from nextify.data.dense.annotations import DenseImages
from nextify.deploy.export import export
from nextify.deploy.quantize import fastest, quantize
from nextify.deploy.verify import ClassifierVerification
from nextify.system.text import printable
from nextify.weights import About
from nextify.weights.bundle import DenseAbout, stated


def run_export(options: Options) -> int:
    console = Console(stderr=True)
    to, size, searches = options.to, options.image_size, options.fastest or options.precision == "int8"
    images: Images | DenseImages | None = None
    if isinstance(about := stated(options.bundle), DenseAbout):
        if searches:
            raise no_search(options.bundle, about)
        if options.data is not None:
            images = read_any(console, options.data, options.reading, None, about.task, to_train=False)
    elif options.data is not None:
        images = read_images(
            console, options.data, options.reading, None, options.bundle, to_train=searches, several=not searches
        )
        note(*images.warnings)
    if searches and isinstance(images, Images):
        made = fastest if to is None else partial(quantize, to=to)
        return search(made, images, options)
    assert to is not None
    done = export(
        options.bundle,
        to,
        options.folder,
        precision=options.precision,
        image_size=size if size is None or size == "dynamic" else int(size),
        with_preprocessing=options.with_preprocessing,
        images=images,
        threads=options.threads,
    )
    if isinstance(about, About) and about.metrics and not done.about.metrics:
        sides = "x".join(map(str, about.preprocessing.size))
        note(
            f"the export's accuracy at {size} pixels is not known, as the bundle's was measured at {sides}: see "
            f"docs/export.md"
        )
    found = done.verification
    if options.json:
        print_json({"path": str(done.path), "export": asdict(done.exported), "verification": asdict(found)})
        return 0
    print(f"{done.exported.name}: {done.bytes / 1e6:,.1f} MB")
    of, same = "an image's largest logit", ""
    if isinstance(found, ClassifierVerification):
        what = "labels" if isinstance(done.about, About) and done.about.thresholds else "top-1"
        same = f"same {what} as the bundle on {found.top1_equal:g} %, "
    elif isinstance(done.about, DenseAbout) and done.about.task == "detection":
        of = "the canvas's sides and of the scores"
    print(
        f"verified on {found.images} images of {found.data}: {same}largest difference {found.largest_difference:.1e} "
        f"of {of} (limit {found.limit:g})\n"
    )
    rows = [(f"{t.batch}", f"{t.file:,.2f}", f"{t.bundle:,.2f}") for t in found.timings]
    print_columns(("batch", "file, ms", "bundle (torch, fp32), ms"), rows)
    print(f"\nlicence: {printable(done.about.licence)}")
    print(f"written: {done.path}")
    return 0
