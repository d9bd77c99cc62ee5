"""int8 that keeps its promise, and the fastest file that does: candidates are made, measured side by side, and proven.

Three disjoint sets of images decide: calibration images are drawn from the training part; the held-out part is split
in two, gate images on which the candidates are compared and one is chosen, and unseen images on which only the chosen
one and the bundle are tested. It is accepted if there the 95 % interval of the change in top-1 (``gate.py``) lies above
``-max_drop``, the expected calibration error has not grown by more than ``ECE_BOUND``, and it is faster than fp32.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import Images, ImageSet
from nextify.data.images import check_images
from nextify.data.preprocessing import Preprocessing
from nextify.deploy import formats
from nextify.deploy.export import Export, Source, describe_export, folder_bytes
from nextify.deploy.gate import Answers, Change, change, images_needed
from nextify.deploy.runners import Exported, Format, Precision, Run, needs, start
from nextify.deploy.verify import some_images, verify
from nextify.evaluation.evaluate import match_classes
from nextify.evaluation.runner import Floats, Network, probabilities
from nextify.system.files import fresh_folder
from nextify.weights import save_bundle
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
    Int8("int8, NNCF's default"),
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
    probabilities: list[Floats] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    batched: list[float] = field(default_factory=list)


def quantize(
    bundle: str | Path,
    images: Images,
    out: str | Path,
    *,
    to: Literal["openvino", "onnx"] = "openvino",
    max_drop: float = 0.5,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Progress = lambda words: None,
) -> Quantized:
    """Write a bundle in int8 if it keeps its accuracy and is faster, otherwise the best that does: bf16, then fp32.

    Args:
        images: with a training part to calibrate on and a held-out part to test on.
        out: the folder to write; one that holds a bundle or an export is replaced.
        max_drop: top-1 points that may be lost at most, with 95 % confidence.
        seed: of the choice of images.
        on_progress: called with what is being done.

    Raises:
        TooFewImages: the held-out images could not show it even if no answer changed.
        MissingExtra: the format's packages, or NNCF, are not installed.
        WeightsError, DataError: the bundle or its images cannot be used.
    """
    needs("nncf", to)
    return _search(bundle, images, out, _of_format(to, True), "int8", max_drop, seed, threads, on_progress)


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
    return _search(bundle, images, out, None, None, max_drop, seed, threads, on_progress)


def _of_format(to: Format, quantized: bool) -> list[tuple[Exported, Int8 | None]]:
    """What can be tried in one format, fp32 first."""
    narrow = torch.cpu._is_avx512_bf16_supported()
    plans: list[tuple[Exported, Int8 | None]] = [(Exported(to, "fp32", None), None)]
    if narrow and "bf16" in formats.PRECISIONS[to]:
        plans.append((Exported(to, "bf16", None, bf16=True), None))
    if quantized:
        plans += [(Exported(to, "int8", None, bf16=narrow and to == "openvino"), how) for how in INT8]
    return plans


def _search(
    bundle: str | Path,
    images: Images,
    out: str | Path,
    plans: list[tuple[Exported, Int8 | None]] | None,
    preferred: Precision | None,
    max_drop: float,
    seed: int,
    threads: int | None,
    on_progress: Progress,
) -> Quantized:
    check_images(images)
    out = Path(out)
    check_replaceable(out)
    if threads is not None:
        torch.set_num_threads(threads)
    source, notes = Source.of(bundle), []
    labels_of = match_classes(source.about, images, notes)
    calibration, gate, unseen = _parts(images, max_drop, seed)
    settings = source.about.preprocessing
    whole_bundle = plans is None
    if plans is None:
        plans = []
        for to in ("openvino", "onnx", "torch", "aotinductor"):
            try:
                formats.check(Exported(to, "fp32", None))
                quantized = to in ("openvino", "onnx")
                if quantized:
                    needs("nncf", to)
            except formats.MissingExtra as error:
                notes.append(f"left out: {error}")
                continue
            plans += _of_format(to, quantized)
    with TemporaryDirectory() as scratch:
        tried: list[_Tried] = []
        for number, (exported, how) in enumerate(plans):
            exported = replace(exported, size=settings.size)
            name = f"{exported.format} {how.name if how else exported.precision}"
            on_progress(f"making {name}")
            folder = Path(scratch) / str(number)
            folder.mkdir()
            with formats.quiet():
                if how is None:
                    formats.write(exported, source.model, source.mirror, settings, folder)
                else:
                    chosen = [images.train.load(i) for i in calibration.tolist()]
                    _write_int8(exported, how, source, [settings(pixels).numpy()[None] for pixels in chosen], folder)
                tried.append(_Tried(name, exported, folder, start(folder / exported.file, exported, threads)))
        if whole_bundle:
            folder = Path(scratch) / "bundle"
            save_bundle(folder, source.model.state_dict(), source.about)
            tried.append(_Tried("the bundle with our kernels", None, folder, Network(folder, threads=threads)))
        on_progress("timing")
        _time(tried, np.stack([settings(p).numpy() for _, p in some_images(images.test, BATCH)]))
        on_progress(f"comparing on {len(gate):,} gate images")
        answers = _answers(tried, images.test, gate, labels_of, settings)
        before = tried[0]
        passing = []
        verdicts = {}
        for one in tried:
            verdicts[one.name] = _refusal(one, before, answers, max_drop)
            if not verdicts[one.name]:
                passing.append(one)
        # The preferred precision first, then by speed; fp32 is its own reference and always passes.
        passing.sort(key=lambda one: (one.exported is None or one.exported.precision != preferred, median(one.batched)))
        if preferred is None:
            passing.sort(key=lambda one: median(one.batched))
        failed: set[Precision | None] = set()
        for best in passing:
            precision = best.exported.precision if best.exported else None
            if precision in failed and best is not before:
                continue  # one attempt for each precision, or the unseen images would no longer be unseen
            on_progress(f"testing {best.name} on {len(unseen):,} unseen images")
            pair = [replace(one, probabilities=[]) for one in ((before,) if best is before else (before, best))]
            last = _answers(pair, images.test, unseen, labels_of, settings)
            final, ece = change(last[before.name], last[best.name]), last[best.name].ece - last[before.name].ece
            if best is before or (final.low > -max_drop and ece <= ECE_BOUND):
                break
            failed.add(precision)
            verdicts[best.name] = (
                f"failed on unseen images: {final.value:+.2f} [{final.low:+.2f}, {final.high:+.2f}] points, "
                f"calibration error {ece:+.2f}"
            )
        verdicts = {
            name: words or ("chosen" if name == best.name else "not chosen") for name, words in verdicts.items()
        }
        candidates = tuple(
            Candidate(
                one.name,
                answers[one.name].top1,
                change(answers[before.name], answers[one.name]),
                answers[one.name].ece,
                folder_bytes(one.folder),
                1000 * median(one.single),
                BATCH / median(one.batched),
                verdicts[one.name],
            )
            for one in tried
        )
        counts = {"calibration": len(calibration), "gate": len(gate), "unseen": len(unseen)}
        found = Quantized(None, out, candidates, final, ece, max_drop, counts, seed, tuple(notes))
        if best.exported is None:
            save_bundle(out, source.model.state_dict(), source.about)
            return found
        on_progress(f"verifying {best.name}")
        with fresh_folder(out) as fresh:
            shutil.copytree(best.folder, fresh, dirs_exist_ok=True)
            proof = verify(best.exported, best.run, source.run, some_images(images.test), settings, images.name)
            gated = {k: v for k, v in asdict(found).items() if k not in ("export", "path")}
            describe_export(fresh, source, best.exported, {"verification": asdict(proof), "gate": gated})
    return replace(found, export=Export(out, source.about, best.exported, proof, folder_bytes(out)))


def _parts(images: Images, max_drop: float, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices that calibrate (of the training part), choose and test (of the held-out part).

    Raises ``TooFewImages``.
    """
    draw = np.random.default_rng(seed)
    held = draw.permutation(len(images.test))
    cut = round(GATE_SHARE * len(held))
    needed = images_needed(max_drop)
    if len(held) - cut < needed:
        least = -int(-needed // (1 - GATE_SHARE))
        raise TooFewImages(
            f"{len(held):,} held-out images of {images.name} cannot show a loss below {max_drop:g} points, even if no "
            f"answer changes: give about {least:,}, or a larger --max-drop"
        )
    if not len(images.train):
        raise TooFewImages(f"{images.name} has no training images to calibrate on: give data with a training part")
    return draw.permutation(len(images.train))[:CALIBRATION_IMAGES], held[:cut], held[cut:]


def _refusal(one: _Tried, before: _Tried, answers: dict[str, Answers], max_drop: float) -> str:
    """Why a candidate is out of the question on the gate images; empty if it is not."""
    if one is before:
        return ""
    drop = answers[before.name].top1 - answers[one.name].top1
    ece = answers[one.name].ece - answers[before.name].ece
    if drop > max_drop:
        return f"loses {drop:.2f} points"
    if ece > ECE_BOUND:
        return f"calibration error grows by {ece:.2f} points"
    if median(one.batched) >= median(before.batched):
        return f"no faster than {before.name}"
    return ""


def _answers(
    tried: Sequence[_Tried],
    held: ImageSet,
    places: npt.NDArray[np.int64],
    labels_of: npt.NDArray[np.int64],
    settings: Preprocessing,
) -> dict[str, Answers]:
    """What each candidate says about the same images, prepared once."""
    size = settings.batch_size(64)
    for first in range(0, len(places), size):
        inputs = np.stack([settings(held.load(i)).numpy() for i in places[first : first + size].tolist()])
        for one in tried:
            one.probabilities.append(probabilities(one.run, inputs))
    labels = labels_of[held.labels[places]]
    return {one.name: Answers.of(np.concatenate(one.probabilities), labels) for one in tried}


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


def _write_int8(exported: Exported, how: Int8, source: Source, calibration: Sequence[Floats], folder: Path) -> None:
    """Quantize by NNCF and write the file."""
    import nncf

    settings = source.about.preprocessing
    program = formats.trace(replace(exported, precision="fp32"), source.model, source.mirror, settings)
    path = folder / exported.file
    smooth = how.smooth_quant
    options: dict[str, Any] = {"subset_size": len(calibration)}
    if smooth is not None:  # which NNCF does for transformers only
        alphas = nncf.AdvancedSmoothQuantParameters(matmul=smooth)
        options["model_type"] = nncf.ModelType.TRANSFORMER
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
    if exported.format == "openvino":
        import openvino

        model = formats.openvino_model(program)
        nodes = [(op.get_friendly_name(), op.get_type_name()) for op in model.get_ordered_ops()]
        depthwise = [name for name, kind in nodes if kind == "GroupConvolution"]
        linear = [name for name, kind in nodes if kind == "MatMul"]
        first = [name for name, kind in nodes if kind == "Convolution"]
        data = nncf.Dataset(list(calibration))
        options |= _ignoring(how, first, depthwise, linear)
        openvino.save_model(nncf.quantize(model, data, **options), path, compress_to_fp16=False)
        return
    import onnx

    model = formats.onnx_program(program).model_proto
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in convolutions}
    linear = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    depthwise = [name for name, count in groups.items() if count > 1]
    first = [name for name, count in groups.items() if count == 1]
    data = nncf.Dataset([{"images": batch} for batch in calibration])
    options |= _ignoring(how, first, depthwise, linear)
    onnx.save_model(nncf.quantize(model, data, **options), str(path))


def _ignoring(how: Int8, convolutions: list[str], depthwise: list[str], linear: list[str]) -> dict[str, Any]:
    """NNCF's option for the layers to keep, given those of each kind in order."""
    import nncf

    parts: dict[Part, list[str]] = {"stem": convolutions[:1], "depthwise": depthwise, "head": linear[-1:]}
    names = [name for part in how.keep for name in parts[part]]
    return {"ignored_scope": nncf.IgnoredScope(names=names)} if names else {}
