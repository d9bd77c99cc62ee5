"""``nextify doctor``: what is installed and used here, to attach to a bug report."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

from packaging.requirements import Requirement
from tyro.conf import OmitArgPrefixes

from nextify.cli.options import Json, Machine, unset
from nextify.cli.printing import Finding, print_json
from nextify.system import environment, native
from nextify.system.files import cache_root

EXTRAS = {
    "data": "images and manifests in Parquet files",
    "datasets": "data sets from the Hugging Face Hub",
    "fast": "faster decoding of JPEGs, to the same pixels",
    "hub": "weights and bundles from and to the Hugging Face Hub",
    "huggingface": "preprocessing compared with Hugging Face's",
    "tensorboard": "training curves in TensorBoard",
    "wandb": "training curves in Weights & Biases",
    "trackio": "training curves in Trackio",
    "serve": "nextify serve",
    "explain": "integrated gradients in nextify explain",
    "onnx": "export to ONNX, and int8",
    "openvino": "export to OpenVINO, and int8",
    "executorch": "export to ExecuTorch",
    "dense": "YOLO data sets, and average precision of boxes and masks",
    "ray": "studies on a Ray cluster",
    "slurm": "studies on a Slurm cluster",
    "docs": "this documentation as a site, by make docs",
}
"""What each extra of pyproject.toml brings."""


@dataclass(frozen=True)
class Options:
    """Report versions, devices, kernels in use and why, what each extra would bring, folders, and in ten seconds how
    much faster the kernels make a small network here.

    The exit code is 1 if something that nextify needs is missing or too old.
    """

    quick: Annotated[bool, unset()] = False
    """Leave out what needs torch: devices, kernels and speed."""
    json: Json = False
    machine: OmitArgPrefixes[Machine] = Machine()


def versions() -> Iterator[Finding]:
    """Nextify, Python and the packages that nextify always needs."""
    yield Finding("nextify", environment.version("nextify"), str(Path(__file__).parents[1]))
    yield Finding("python", platform.python_version(), platform.python_implementation())
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _installed(requirement)


def machine() -> Iterator[Finding]:
    """The system and its processor."""
    yield Finding("system", f"{platform.system()} {platform.release()}", " ".join(platform.libc_ver()))
    yield Finding("processor", environment.processor(), f"{environment.cores()} cores for this process")
    memory, free = environment.memory_gib(), environment.available_bytes()
    yield Finding(
        "memory",
        None if memory is None else f"{memory} GiB",
        "" if free is None else f"{free / 2**30:.1f} GiB available",
    )
    yield Finding("instructions", native.level(), "the level that kernels are prebuilt or compiled for")
    yield Finding("C++ compiler", native.compiler(), "needed for kernels that the wheel does not bring")


def extras() -> Iterator[Finding]:
    """The extras, and what they would bring."""
    needed = list(_requirements())
    for name, brings in EXTRAS.items():
        parts = [part for part in needed if part.marker is not None and part.marker.evaluate({"extra": name})]
        found = [_installed(part) for part in parts if part.name != "nextify"]
        if missing := [part.name for part in found if part.found is None or part.wrong]:
            yield Finding(name, None, f"{brings}: pip install 'nextify[{name}]' ({', '.join(missing)})")
        else:
            yield Finding(name, "installed", brings)


def folders() -> Iterator[Finding]:
    """Where nextify writes, with the space there."""
    try:
        kernels = native.cache_folder()
    except RuntimeError as error:
        yield Finding("compiled kernels", None, str(error))
    else:
        yield _folder("compiled kernels", kernels)
    yield _folder("downloads", cache_root() / "nextify")
    yield _folder("temporary files", Path(tempfile.gettempdir()))
    try:
        here = Path.cwd()
    except FileNotFoundError:
        yield Finding("results", None, "the current folder was deleted: change to another", wrong=True)
    else:
        yield _folder("results", here)


def _folder(name: str, path: Path) -> Finding:
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        space = f"{shutil.disk_usage(there).free / 2**30:.0f} GiB free"
    except OSError as error:  # a folder above may not be looked into
        return Finding(name, str(path), f"{error.filename}: {error.strerror}", wrong=True)
    writable = there.is_dir() and os.access(there, os.W_OK)
    return Finding(name, str(path), space if writable else f"{there} may not be written", wrong=not writable)


def _requirements() -> Iterator[Requirement]:
    """What the installed package requires, with its extras; nothing where it is run without being installed."""
    try:
        yield from map(Requirement, metadata.requires("nextify") or ())
    except metadata.PackageNotFoundError:
        return


def _installed(requirement: Requirement) -> Finding:
    found = environment.version(requirement.name)
    wrong = found is None or not requirement.specifier.contains(found, prereleases=True)
    return Finding(
        requirement.name, found, f"needs {requirement.specifier}: pip install '{requirement}'" if wrong else "", wrong
    )


def run(options: Options) -> int:
    found: dict[str, list[Finding]] = {}
    for section in (versions, machine, extras, folders):
        _add(found, section.__name__, section(), options.json)
    if not options.quick:
        from nextify.cli import speed

        _add(found, "devices", speed.devices(), options.json)
        _add(found, "kernels", speed.kernels(), options.json)
        _add(found, "speed", speed.check(options.machine), options.json)
    if options.json:
        print_json({title: [asdict(finding) for finding in findings] for title, findings in found.items()})
    return int(any(finding.wrong for findings in found.values() for finding in findings))


def _add(found: dict[str, list[Finding]], title: str, findings: Iterator[Finding], json: bool) -> None:
    """Add a section, and print it at once unless JSON was asked for."""
    if not json:
        print(f"{'' if not found else chr(10)}{title}")
    found[title] = []
    for finding in findings:
        found[title].append(finding)
        if not json:
            mark = "!" if finding.wrong else " "
            print(f"{mark} {finding.name:<18} {finding.found or 'none':<12}  {finding.note}".rstrip())
