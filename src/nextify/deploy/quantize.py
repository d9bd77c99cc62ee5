"""int8 that keeps its promise, and the fastest file that does: candidates are made, measured side by side, and proven.

Calibration images are drawn from the training part; the held-out part is split into gate images, by which a candidate
is chosen, and unseen images, on which it is tested once (docs/export.md). No set has an image or a group of another.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import Images, ImageSet
from nextify.data.images import check_images
from nextify.data.preflight import digest
from nextify.data.sources.listing import complete_groups
from nextify.deploy import formats
from nextify.deploy.export import Export, Source, describe_export, folder_bytes
from nextify.deploy.gate import Answers, Change, change, images_needed
from nextify.deploy.runners import Exported, Format, MissingExtra, Run, needs, quiet, start
from nextify.deploy.verify import some_images, verify
from nextify.evaluation.evaluate import match_classes
from nextify.evaluation.runner import Floats, Network, probabilities
from nextify.evaluation.seen import trained_on
from nextify.system.files import fresh_folder
from nextify.weights import WeightsError, save_bundle
from nextify.weights.bundle import check_replaceable

CALIBRATION_IMAGES = 300
"""NNCF's default."""
ECE_BOUND = 1.0
"""Percentage points by which the expected calibration error may grow."""
GATE_SHARE = 0.3
"""Of the held-out images; the others are left for the final check, where the interval has to be narrow."""
ROUNDS = 7
"""In which the candidates take turns to be timed."""
BATCH = 16
Part = Literal["stem", "depthwise", "head"]
Progress = Callable[[str], None]
_FAILED = "on unseen images"


@dataclass(frozen=True)
class Int8:
    """One way to quantize."""

    name: str
    smooth_quant: float | None = None
    """How much of the activations' range moves into the weights of linear layers (arXiv 2211.10438), 0 to 1; None
    moves nothing."""
    keep: tuple[Part, ...] = ()
    """Layers that stay in floating point."""


INT8 = (
    Int8("int8"),
    Int8("int8, SmoothQuant 0.5", 0.5),
    Int8("int8, SmoothQuant 0.8", 0.8),
    Int8("int8, stem and head kept", None, ("stem", "head")),
    Int8("int8, depthwise kept", None, ("depthwise",)),
    Int8("int8, SmoothQuant 0.5, all three kept", 0.5, ("stem", "depthwise", "head")),
)


@dataclass(frozen=True)
class Candidate:
    """One file, or the bundle itself, and what was measured of it on the gate images."""

    name: str
    top1: float
    """Percent."""
    change: Change
    ece: float
    """Expected calibration error, percent."""
    bytes: int
    milliseconds: float
    """Of one image."""
    images_per_second: float
    """In batches of ``BATCH``."""
    verdict: str
    """``chosen``, ``not chosen``, or why it is out of the question."""


@dataclass(frozen=True)
class Quantized:
    """What was written, and what it was chosen from."""

    export: Export | None
    """None where the bundle itself was the fastest; a copy of it was written."""
    path: Path
    candidates: tuple[Candidate, ...]
    final: Change
    """Of the chosen one against fp32 on the unseen images."""
    ece_change: float
    """There, percentage points."""
    max_drop: float
    images: dict[str, int]
    """That calibrated, chose and tested."""
    seed: int
    notes: tuple[str, ...] = ()


class TooFewImages(ValueError):
    """Images that cannot show what is promised."""


@dataclass
class _Tried:
    """A candidate in the making."""

    name: str
    exported: Exported | None
    """None for the bundle."""
    folder: Path
    run: Run
    single: list[float] = field(default_factory=list)
    batched: list[float] = field(default_factory=list)
    """Seconds of one image, and of a batch."""
    refused: str = ""
    """Why it is out of the question."""

    @property
    def seconds(self) -> float:
        return median(self.batched)


def quantize(
    bundle: str | Path,
    images: Images,
    out: str | Path,
    *,
    to: Format = "openvino",
    max_drop: float = 0.5,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Progress = lambda words: None,
) -> Quantized:
    """Write a bundle in int8 if it keeps its accuracy and is faster, otherwise in bf16 or, failing that, fp32.

    Args:
        images: a data set with a training part to calibrate on and a held-out part to test on.
        out: the folder to write; one that holds a bundle or an export is replaced.
        max_drop: most top-1 points that may be lost, with 95 % confidence.
        seed: seed for the choice of images.
        on_progress: called with a description of each stage.
        to: ``openvino`` or ``onnx``.

    Raises:
        FormatError: the format has no int8.
        TooFewImages: the held-out images could not show that little is lost, even if no answer changed.
        MissingExtra: the format's packages, or NNCF, are not installed.
        WeightsError, DataError: the bundle or its images cannot be used.
    """
    formats.check(Exported(to, "int8", None))
    needs("nncf", to)

    def rank(one: _Tried) -> tuple[bool, float]:
        return one.exported is None or one.exported.precision != "int8", one.seconds

    return _search(bundle, images, out, [to], max_drop, seed, threads, on_progress, rank)


def fastest(
    bundle: str | Path,
    images: Images,
    out: str | Path,
    *,
    max_drop: float = 0.3,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Progress = lambda words: None,
) -> Quantized:
    """Write the fastest of what this machine can run: torch plain, compiled, with our kernels; ONNX Runtime; OpenVINO.

    Formats whose packages are not installed are left out and named in ``notes``. Arguments and errors as for
    ``quantize``.
    """
    to: list[Format] = []
    notes = []
    for one in ("openvino", "onnx", "torch", "aotinductor"):
        try:
            formats.check(Exported(one, "fp32", None))
            if "int8" in formats.PRECISIONS[one]:
                needs("nncf", one)
            to.append(one)
        except MissingExtra as error:
            notes.append(f"left out: {error}")
    to.sort(key=lambda one: one != "torch")  # plain torch in fp32 is what the others are held against
    found = _search(
        bundle, images, out, to, max_drop, seed, threads, on_progress, lambda one: one.seconds, with_bundle=True
    )
    return replace(found, notes=(*notes, *found.notes))


def _of_format(to: Format) -> list[tuple[Exported, Int8 | None]]:
    """What can be tried in one format, fp32 first."""
    precisions = formats.PRECISIONS[to]
    narrow = torch.cpu._is_avx512_bf16_supported() and "bf16" in precisions
    plans: list[tuple[Exported, Int8 | None]] = [(Exported(to, "fp32", None), None)]
    plans += [(Exported(to, "bf16", None, bf16=True), None)] if narrow else []
    return plans + [(Exported(to, "int8", None, bf16=narrow), how) for how in INT8 if "int8" in precisions]


def _search(
    bundle: str | Path,
    images: Images,
    out: str | Path,
    to: Sequence[Format],
    max_drop: float,
    seed: int,
    threads: int | None,
    on_progress: Progress,
    rank: Callable[[_Tried], Any],
    with_bundle: bool = False,
) -> Quantized:
    """Try all that the formats ``to`` offer; ``rank`` says which of those that keep the promise is best (lowest)."""
    check_images(images)
    out = Path(out)
    check_replaceable(out, bundle)
    if threads is not None:
        torch.set_num_threads(threads)
    source, notes = Source.of(bundle), trained_on(bundle, [images.test])
    labels_of = match_classes(source.about, images, notes)
    on_progress("looking for equal images …")
    calibration, gate, unseen = _parts(images, max_drop, seed)
    settings = source.about.preprocessing
    inputs = [settings(images.train.load(i)).numpy()[None] for i in calibration.tolist()]
    with TemporaryDirectory() as scratch:
        tried: list[_Tried] = []
        for exported, how in [plan for one in to for plan in _of_format(one)]:
            exported = replace(exported, size=settings.size)
            name = f"{exported.format} {how.name if how else exported.precision}"
            folder = Path(scratch, str(len(tried)))
            on_progress(f"making {name} …")
            folder.mkdir()
            try:
                with quiet():
                    if how is None:
                        formats.write(exported, source.model, source.mirror, settings, folder)
                    else:
                        write_int8(exported, how, source, inputs, folder)
                    run = start(folder / exported.file, exported, threads)
            except (RuntimeError, WeightsError) as error:  # such as an int8 layer that a runtime has no kernel for
                if how is None:
                    raise
                notes.append(f"{name} cannot be run here: {str(error).strip().splitlines()[-1]}")
            else:
                tried.append(_Tried(name, exported, folder, run))
        if with_bundle:
            folder = save_bundle(Path(scratch, "bundle"), source.model.state_dict(), source.about)
            tried.append(_Tried("the bundle with our kernels", None, folder, Network(folder, threads=threads)))
        before, shown = tried[0], some_images(images.test)
        assert before.exported is not None
        verify(before.exported, before.run, source.run, shown, settings, images.name)  # the others are held against it
        on_progress("timing them in turns …")
        _time(tried, np.stack([settings(pixels).numpy() for _, pixels in shown[:BATCH]]))
        on_progress(f"comparing them on {len(gate):,} gate images …")
        answers = _answers(tried, images.test, gate, labels_of, source)
        for one, given in zip(tried[1:], answers[1:], strict=True):
            one.refused = _refusal(change(answers[0], given).value, given.ece - answers[0].ece, max_drop)
            if not one.refused and one.seconds >= before.seconds:
                one.refused = f"no faster than {before.name}"
        best, final, ece = before, change(answers[0], answers[0]), 0.0
        for one in sorted((one for one in tried if not one.refused), key=rank):
            precision = one.exported and one.exported.precision
            failed = [o.exported.precision for o in tried if o.exported and o.refused.startswith(_FAILED)]
            if precision in failed and one is not before:
                continue  # one attempt for each precision, or the unseen images would no longer be unseen
            on_progress(f"testing {one.name} on {len(unseen):,} unseen images …")
            old, *new = _answers([before] if one is before else [before, one], images.test, unseen, labels_of, source)
            best, final, ece = one, change(old, *new or [old]), (*new, old)[0].ece - old.ece
            one.refused = "" if one is before else _refusal(final.low, ece, max_drop)
            if not one.refused:
                break
            one.refused = f"{_FAILED}: {one.refused}"
        counts = {"calibration": len(calibration), "gate": len(gate), "unseen": len(unseen)}
        candidates = tuple(
            Candidate(
                one.name,
                given.top1,
                change(answers[0], given),
                given.ece,
                folder_bytes(one.folder),
                1000 * median(one.single),
                BATCH / one.seconds,
                one.refused or ("chosen" if one is best else "not chosen"),
            )
            for one, given in zip(tried, answers, strict=True)
        )
        found = Quantized(None, out, candidates, final, ece, max_drop, counts, seed, tuple(notes))
        if best.exported is None:
            save_bundle(out, source.model.state_dict(), source.about)
            return found
        on_progress(f"verifying {best.name} …")
        with fresh_folder(out) as fresh:
            shutil.copytree(best.folder, fresh, dirs_exist_ok=True)
            proof = verify(best.exported, best.run, source.run, shown, settings, images.name)
            gated = {k: v for k, v in asdict(found).items() if k not in ("export", "path")}
            describe_export(fresh, source, best.exported, {"verification": asdict(proof), "gate": gated})
    return replace(found, export=Export(out, source.about, best.exported, proof, folder_bytes(out)))


def _parts(images: Images, max_drop: float, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices that calibrate (of the training part), choose and test (of the held-out part); equal images, and those of
    a group, are in one part only. Raises ``TooFewImages``."""
    if not max_drop > 0:
        raise TooFewImages("no number of images shows that nothing is lost: give --max-drop above 0, such as 0.3")
    draw, train, test = np.random.default_rng(seed), images.train, images.test
    held = draw.permutation(len(test))
    cut = round(GATE_SHARE * len(held))
    needed = images_needed(max_drop)
    if len(held) - cut < needed:
        least = -int(-needed // (1 - GATE_SHARE))
        raise TooFewImages(
            f"{len(held):,} held-out images of {images.name} cannot show a loss below {max_drop:g} points, even if no "
            f"answer changes: give about {least:,}, or a larger --max-drop"
        )
    if not len(train):
        raise TooFewImages(f"{images.name} has no training images to calibrate on: give data with a training split")
    contents = [digest(test, i) for i in range(len(test))]
    kin = _kin(contents, test.groups)
    _, first, own = np.unique(kin[held], return_index=True, return_inverse=True)
    held = held[np.argsort(first[own], kind="stable")]  # each behind the first of its kin
    borders = np.flatnonzero(np.diff(kin[held])) + 1
    borders = borders[borders <= len(held) - needed]
    if not len(borders):
        raise TooFewImages(
            f"the {len(held):,} held-out images of {images.name} are of too few groups to choose by some of these and "
            f"to test on {needed:,} images of others: add groups, or give a larger --max-drop"
        )
    cut = borders[np.abs(borders - cut).argmin()]
    known, groups = {*contents}, {*(test.groups or ())} - {""}
    fresh = (
        i
        for i in draw.permutation(len(train)).tolist()
        if digest(train, i) not in known and (train.groups is None or train.groups[i] not in groups)
    )
    calibration = np.array([*islice(fresh, CALIBRATION_IMAGES)], np.int64)
    if not len(calibration):
        raise TooFewImages(
            f"each training image of {images.name} is held out, too, or of a held-out group: give others to "
            f"calibrate on"
        )
    return calibration, held[:cut], held[cut:]


def _kin(contents: Sequence[bytes], groups: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """``(N,)``: a number for each image, the same for all that equal ``contents`` or a common group link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(contents)
    content = np.unique(contents, return_inverse=True)[1]
    group = np.unique(complete_groups(groups or [""] * count), return_inverse=True)[1]
    links = coo_array((np.ones(count), (content, count + group)), shape=(2 * count, 2 * count))
    numbers: npt.NDArray[np.int64] = connected_components(links, directed=False)[1][content]
    return numbers


def _refusal(change: float, ece: float, max_drop: float) -> str:
    """Why these changes of top-1 and of the calibration error, in points, are out of the question; empty if not."""
    if change <= -max_drop and change < 0:
        return f"may lose {-change:.2f} points"
    return f"calibration error grows by {ece:.2f} points" if ece > ECE_BOUND else ""


def _answers(
    tried: Sequence[_Tried],
    held: ImageSet,
    places: npt.NDArray[np.int64],
    labels_of: npt.NDArray[np.int64],
    source: Source,
) -> list[Answers]:
    """What each candidate says about the same images, which are prepared once."""
    settings = source.about.preprocessing
    size, found = settings.batch_size(64), [list[Floats]() for _ in tried]
    for first in range(0, len(places), size):
        inputs = np.stack([settings(held.load(i)).numpy() for i in places[first : first + size].tolist()])
        for one, said in zip(tried, found, strict=True):
            said.append(probabilities(one.run(inputs), source.about))
    labels = labels_of[held.labels[places]]
    return [Answers.of(np.concatenate(said), labels) for said in found]


def _time(tried: Sequence[_Tried], inputs: Floats) -> None:
    """Seconds of a batch and of one image, in turns."""
    for warm in (True, False, *[False] * (ROUNDS - 1)):
        for one in tried:
            for batch, seconds in ((inputs, one.batched), (inputs[:1], one.single)):
                one.run(batch)  # its memory is ready, and the last one's threads have come to rest
                start = time.perf_counter()
                one.run(batch)
                if not warm:
                    seconds.append(time.perf_counter() - start)


def write_int8(exported: Exported, how: Int8, source: Source, calibration: Sequence[Floats], folder: Path) -> None:
    """Quantize by NNCF and write the file."""
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters

    settings = source.about.preprocessing
    program = formats.trace(replace(exported, precision="fp32"), source.model, source.mirror, settings)
    path = folder / exported.file
    smooth = how.smooth_quant
    options: dict[str, Any] = {"subset_size": len(calibration)}
    # NNCF would give each channel of a depthwise convolution's input a range of its own, but takes the rows of our
    # (N, H, W, C) for the channels.
    one_range = QuantizationParameters(per_channel=False)
    parameters = nncf.AdvancedQuantizationParameters(activations_quantization_params=one_range)
    if smooth is not None:  # which NNCF does for transformers only
        parameters.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(matmul=smooth)
        options["model_type"] = nncf.ModelType.TRANSFORMER
    options["advanced_parameters"] = parameters
    if exported.format == "openvino":
        import openvino

        model = formats.openvino_model(program)
        nodes = [(op.get_friendly_name(), op.get_type_name()) for op in model.get_ordered_ops()]
        depthwise = [name for name, kind in nodes if kind == "GroupConvolution"]
        linear = [name for name, kind in nodes if kind == "MatMul"]
        first = [name for name, kind in nodes if kind == "Convolution"]
        data = nncf.Dataset(list(calibration))
    else:
        import onnx

        model = formats.onnx_program(program).model_proto
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in convolutions}
        linear = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
        depthwise = [name for name, count in groups.items() if count > 1]
        first = [name for name, count in groups.items() if count == 1]
        data = nncf.Dataset([{"images": batch} for batch in calibration])
    layers: dict[Part, list[str]] = {"stem": first[:1], "depthwise": depthwise, "head": linear[-1:]}
    if kept := [name for part in how.keep for name in layers[part]]:
        options["ignored_scope"] = nncf.IgnoredScope(names=kept)
    quantized = nncf.quantize(model, data, **options)
    if exported.format == "openvino":
        openvino.save_model(quantized, path, compress_to_fp16=False)
    else:
        onnx.save_model(quantized, str(path))
