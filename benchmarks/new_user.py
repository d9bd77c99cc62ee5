"""A new user's path in an empty environment, timed: install, train on 200 photos, evaluate, predict.

The commands are those of docs/tutorials/photos.md. Neither pip's cache nor that of compiled kernels is used.

Command:  python benchmarks/new_user.py [--install WHEEL] [--photos FOLDER|photos.tar] [--python PYTHON]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from tutorials import FOLDER, blocks, run  # noqa: E402

HALVES = """
import sys
from pathlib import Path
from PIL import Image, ImageOps

for half in ("left", "right"):
    Path("photos", half).mkdir(parents=True)
for number, path in enumerate(sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())):
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    middle = photo.width // 2
    photo.crop((0, 0, middle, photo.height)).save(f"photos/left/{number:03}.jpg")
    photo.crop((middle, 0, photo.width, photo.height)).save(f"photos/right/{number:03}.jpg")
"""
"""Two classes of photos that have none: 100 photos become 100 left and 100 right halves."""


def steps(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, str]]:
    """``(what, seconds, what it printed)`` of each step, in order."""
    bin_folder = folder / "venv" / "bin"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))},
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }

    def timed(what: str, *call: str) -> tuple[str, float, str]:
        start = time.perf_counter()
        done = subprocess.run(call, cwd=folder, env=environment, text=True, stdout=-1, stderr=-2, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{what}: exit code {done.returncode}\n{done.stdout}")
        return what, time.perf_counter() - start, done.stdout

    yield timed("make an environment", arguments.python, "-m", "venv", str(folder / "venv"))
    options = ["--disable-pip-version-check", "--quiet", "--no-cache-dir"]
    options += ["--index-url", arguments.index_url] if arguments.index_url else []
    options += ["--constraint", arguments.constraint] if arguments.constraint else []
    yield timed("install", str(bin_folder / "python"), "-m", "pip", "install", *options, arguments.install)
    if arguments.photos:
        photos(arguments.photos.resolve(), folder, str(bin_folder / "python"))
    for block in blocks(FOLDER / "photos.md"):
        if block.language == "python" and (arguments.photos or "load_sample_images" not in block.code):
            continue  # the photos are given, or the same in Python, which the page shows at its end
        start = time.perf_counter()
        code = block.code.replace("photos/flower/00[0-3].jpg", "photos") if arguments.photos else block.code
        printed = run(replace(block, code=code), folder, environment)
        words = block.code.split()
        yield (words[1] if block.language == "sh" else "make 200 photos"), time.perf_counter() - start, printed


def photos(given: Path, folder: Path, python: str) -> None:
    """Put the given photos into ``folder/photos``, one folder per class."""
    if given.is_dir():
        (folder / "photos").symlink_to(given)
        return
    with tarfile.open(given) as archive:
        archive.extractall(folder / "given", filter="data")
    subprocess.run([python, "-c", HALVES, str(folder / "given")], cwd=folder, check=True)


def size_mib(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", default=str(ROOT), help="what pip installs: this clone, a wheel, a name")
    parser.add_argument("--constraint", default=str(ROOT / "constraints.txt"), help="'' for the newest versions")
    parser.add_argument("--index-url", help="another registry, e.g. of CPU wheels")
    parser.add_argument("--photos", type=Path, help="a folder of class folders, or a tar of photos without classes")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--show", action="store_true", help="print what each command prints")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, total = Path(name), 0.0
        print("| step | seconds |\n|---|--:|")
        for what, seconds, printed in steps(arguments, folder):
            total += seconds
            print(f"| {what} | {seconds:.1f} |", flush=True)
            if arguments.show:
                print(f"\n```text\n{printed}```\n")
        print(f"| all | {total:.1f} |\n\nInstalled: {size_mib(folder / 'venv'):,.0f} MiB")
    print(f"n = 1, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
