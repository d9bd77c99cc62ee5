"""int8 that keeps its promise, and the fastest file that does: candidates are made, measured side by side, and proven.

Calibration images are drawn from the training part; the held-out part is split into gate images, by which a candidate
is chosen, and unseen images, on which it is tested once (docs/export.md). No set has an image or a group of another.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import Images
from nextify.data.images import check_images
from nextify.deploy import formats
from nextify.deploy.export import Export, Source, describe_export, folder_bytes
from nextify.deploy.gate import Answers, Change, change
from nextify.deploy.gate_images import divided
from nextify.deploy.int8 import INT8, Int8, write_int8
from nextify.deploy.runners import Exported, Format, MissingExtra, Run, needs, quiet, start
from nextify.deploy.verify import ExportFailed, Verification, some_images, verify
from nextify.evaluation.evaluate import match_classes
from nextify.evaluation.runner import Floats, Network, probabilities
from nextify.evaluation.seen import trained_on
from nextify.system.device import torch_defaults
from nextify.system.files import fresh_folder, write_bytes_atomic
from nextify.weights import WeightsError, save_bundle
from nextify.weights.bundle import check_replaceable

ECE_BOUND = 1.0
"""Percentage points by which the expected calibration error may grow."""
ROUNDS = 7
"""In which the candidates take turns to be timed."""
BATCH = 16
Progress = Callable[[str], None]
_FAILED = "on unseen images"


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
    proof: Verification | None = None
    """Where it was compared with the bundle on real images."""

    @property
    def seconds(self) -> float:
        return median(self.batched)

    def candidate(self, given: Answers, change: Change, *, chosen: bool) -> Candidate:
        """What is told of it; ``given``: its answers on the gate images."""
        return Candidate(
            *(self.name, given.top1, change, given.ece, folder_bytes(self.folder)),
            *(1000 * median(self.single), BATCH / self.seconds),
            self.refused or ("chosen" if chosen else "not chosen"),
        )


Rank = Callable[[_Tried], Any]


@torch_defaults()
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

    search = _Search(bundle, images, out, max_drop=max_drop, seed=seed, threads=threads, on_progress=on_progress)
    return search.run([to], rank)


@torch_defaults()
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
    search = _Search(bundle, images, out, max_drop=max_drop, seed=seed, threads=threads, on_progress=on_progress)
    found = search.run(to, lambda one: one.seconds, with_bundle=True)
    return replace(found, notes=(*notes, *found.notes))


def _of_format(to: Format) -> list[tuple[Exported, Int8 | None]]:
    """What can be tried in one format, fp32 first."""
    precisions = formats.PRECISIONS[to]
    narrow = torch.cpu._is_avx512_bf16_supported() and "bf16" in precisions
    plans: list[tuple[Exported, Int8 | None]] = [(Exported(to, "fp32", None), None)]
    plans += [(Exported(to, "bf16", None, bf16=True), None)] if narrow else []
    return plans + [(Exported(to, "int8", None, bf16=narrow), how) for how in INT8 if "int8" in precisions]


class _Search:
    """Candidates that are made, timed and compared in a scratch folder; the best that keeps the promise is written."""

    def __init__(
        self,
        bundle: str | Path,
        images: Images,
        out: str | Path,
        *,
        max_drop: float,
        seed: int,
        threads: int | None,
        on_progress: Progress,
    ) -> None:
        check_images(images)
        self.images, self.out, self.threads, self.tell = images, Path(out), threads, on_progress
        self.max_drop, self.seed = max_drop, seed
        check_replaceable(self.out, bundle)
        if threads is not None:
            torch.set_num_threads(threads)
        self.source, self.notes = Source.of(bundle), trained_on(bundle, [images.test])
        self.settings = self.source.about.preprocessing
        self.labels_of = match_classes(self.source.about, images, self.notes)
        self.tell("looking for equal images …")
        self.calibration, self.gate, self.unseen = divided(images, max_drop, seed)
        self.shown = some_images(images.test)

    def run(self, to: Sequence[Format], rank: Rank, *, with_bundle: bool = False) -> Quantized:
        """Try all that the formats ``to`` offer and, if asked, the bundle itself.

        Args:
            rank: says which of those that keep the promise is best (lowest).
        """
        with TemporaryDirectory() as scratch:
            tried = self._made(to, Path(scratch))
            if with_bundle:
                folder = save_bundle(Path(scratch, "bundle"), self.source.model.state_dict(), self.source.about)
                tried.append(_Tried("the bundle with our kernels", None, folder, Network(folder, threads=self.threads)))
            self._verify(tried[0])  # the others are held against it
            self.tell("timing them in turns …")
            _time(tried, np.stack([self.settings(pixels).numpy() for _, pixels in self.shown[:BATCH]]))
            self.tell(f"comparing them on {len(self.gate):,} gate images …")
            answers = self._answers(tried, self.gate)
            before = tried[0]
            for one, given in zip(tried[1:], answers[1:], strict=True):
                one.refused = self._refusal(change(answers[0], given).value, given.ece - answers[0].ece)
                if not one.refused and one.seconds >= before.seconds:
                    one.refused = f"no faster than {before.name}"
            best, final, ece = self._proven(tried, rank)
            counts = {"calibration": len(self.calibration), "gate": len(self.gate), "unseen": len(self.unseen)}
            candidates = tuple(
                one.candidate(given, change(answers[0], given), chosen=one is best)
                for one, given in zip(tried, answers, strict=True)
            )
            found = Quantized(
                *(None, self.out, candidates, final, ece, self.max_drop, counts, self.seed, tuple(self.notes))
            )
            return self._written(best, found)

    def _made(self, to: Sequence[Format], scratch: Path) -> list[_Tried]:
        """The files of these formats that this machine can run, each in its folder of ``scratch``."""
        inputs = [self.settings(self.images.train.load(i)).numpy()[None] for i in self.calibration.tolist()]
        tried: list[_Tried] = []
        for exported, how in [plan for one in to for plan in _of_format(one)]:
            exported = replace(exported, size=self.settings.size)
            name = f"{exported.format} {how.name if how else exported.precision}"
            folder = scratch / str(len(tried))
            self.tell(f"making {name} …")
            folder.mkdir()
            try:
                with quiet():
                    if how is None:
                        formats.write(exported, self.source.model, self.source.mirror, self.settings, folder)
                    else:
                        write_int8(exported, how, self.source, inputs, folder)
                    run = start(folder / exported.file, exported, self.threads)
            except (RuntimeError, WeightsError) as error:  # such as an int8 layer that a runtime has no kernel for
                if how is None:
                    raise
                self.notes.append(f"{name} cannot be run here: {str(error).strip().splitlines()[-1]}")
            else:
                tried.append(_Tried(name, exported, folder, run))
        return tried

    def _proven(self, tried: Sequence[_Tried], rank: Rank) -> tuple[_Tried, Change, float]:
        """The best candidate that keeps the promise on the unseen images, and what it changes there: top-1, and the
        calibration error in points."""
        before = tried[0]
        for one in sorted((one for one in tried if not one.refused), key=rank):
            precision = one.exported and one.exported.precision
            failed = [o.exported.precision for o in tried if o.exported and o.refused.startswith(_FAILED)]
            if precision in failed and one is not before:
                continue  # one attempt for each precision, or the unseen images would no longer be unseen
            try:
                self._verify(one)
            except ExportFailed as error:
                one.refused = "differs from the bundle"
                self.notes.append(str(error).removesuffix("; nothing was written"))
                continue
            self.tell(f"testing {one.name} on {len(self.unseen):,} unseen images …")
            old, *new = self._answers([before] if one is before else [before, one], self.unseen)
            final, ece = change(old, *new or [old]), (*new, old)[0].ece - old.ece
            one.refused = "" if one is before else self._refusal(final.low, ece)
            if not one.refused:
                return one, final, ece
            one.refused = f"{_FAILED}: {one.refused}"
        raise AssertionError("the first candidate is never refused")

    def _written(self, best: _Tried, found: Quantized) -> Quantized:
        if best.exported is None:
            save_bundle(self.out, self.source.model.state_dict(), self.source.about)
            return found
        assert best.proof is not None
        with fresh_folder(self.out) as fresh:
            for file in best.folder.iterdir():
                write_bytes_atomic(fresh / file.name, file.read_bytes())
            gated = {k: v for k, v in asdict(found).items() if k not in ("export", "path")}
            describe_export(fresh, self.source, best.exported, {"verification": asdict(best.proof), "gate": gated})
        export = Export(self.out, self.source.about, best.exported, best.proof, folder_bytes(self.out))
        return replace(found, export=export)

    def _verify(self, one: _Tried) -> None:
        """Compare a candidate with the bundle, unless it is the bundle or has been. Raises ``ExportFailed``."""
        if one.exported is not None and one.proof is None:
            self.tell(f"verifying {one.name} …")
            shown, settings = self.shown, self.settings
            one.proof = verify(one.exported, one.run, self.source.run, shown, settings, self.images.name)

    def _refusal(self, change: float, ece: float) -> str:
        """Why these changes of top-1 and of the calibration error, in points, are out of the question; empty if not."""
        if change <= -self.max_drop and change < 0:
            return f"may lose {-change:.2f} points"
        return f"calibration error grows by {ece:.2f} points" if ece > ECE_BOUND else ""

    def _answers(self, tried: Sequence[_Tried], places: npt.NDArray[np.int64]) -> list[Answers]:
        """What each candidate says about the same held-out images, which are prepared once."""
        size, found, held = self.settings.batch_size(64), [list[Floats]() for _ in tried], self.images.test
        for first in range(0, len(places), size):
            inputs = np.stack([self.settings(held.load(i)).numpy() for i in places[first : first + size].tolist()])
            for one, said in zip(tried, found, strict=True):
                said.append(probabilities(one.run(inputs), self.source.about))
        labels = self.labels_of[held.labels[places]]
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
