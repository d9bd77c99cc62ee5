"""What installing costs beside timm and ultralytics, and what ``nextify predict`` costs from a cold process.

predict: processor time (user and system, which other work on the machine disturbs less than the clock) of a process
that predicts one image with ConvNeXt-T, of one that only imports torch, and of the network's first call in a third, in
turn. The ratio is predict over the sum of the other two, round by round.

install: each tool in a new virtual environment. Download sizes are those of the files that pip fetches, of which torch,
torchvision and what they need (CUDA, triton, NumPy, Pillow, …) is the part that all three share; the time is that of
installing them from a local folder, without the download.

Command:  python benchmarks/cold_start.py predict --rounds 9
          python benchmarks/cold_start.py install --wheel dist/nextify-*.whl
Results:  docs/install.md
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

TORCH = "import torch; torch.set_num_threads({threads})"
FORWARD = """
import json, resource, sys
from nextify.weights.loading import load
from nextify.kernels import install
import torch
torch.set_num_threads({threads})
model = load({bundle!r}).model.eval()
install(model, "auto")
images = torch.randn(1, 3, 224, 224)
def used():
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime
before = used()
with torch.inference_mode():
    model(images)
print(used() - before)
"""


def spent(command: list[str]) -> tuple[float, str]:
    """Processor seconds of a process and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as users run it
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def predict(rounds: int, threads: int) -> None:
    from PIL import Image

    import nextify
    from nextify.system.environment import describe
    from nextify.weights.bundle import About, save_bundle

    with tempfile.TemporaryDirectory() as folder:
        bundle, photo = f"{folder}/tiny", f"{folder}/photo.jpg"
        design = nextify.roadmap("resnet50")[-1].design
        save_bundle(bundle, nextify.create_model(design).state_dict(), About(design, 1000))
        Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(photo)
        limit = ["--device", "cpu", "--threads", str(threads)]
        commands = {
            "import torch": [sys.executable, "-c", TORCH.format(threads=threads)],
            "forward pass": [sys.executable, "-c", FORWARD.format(threads=threads, bundle=bundle)],
            "nextify predict": [sys.executable, "-m", "nextify", "predict", bundle, photo, *limit],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                seconds, printed = spent(command)
                if number:  # the first round reads files from the disk
                    times[name].append(float(printed) if name == "forward pass" else seconds)
    ratios = [p / (t + f) for t, f, p in zip(*times.values(), strict=True)]
    print(json.dumps(describe()))
    for name, values in times.items():
        print(f"{name:<16} {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    print(f"ratio            {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), n = {rounds}")


def install(tools: Iterable[str], wheel: Path | None) -> None:
    shared = {"torch", "torchvision"}
    print(
        "| package | packages | download, MB | of that beyond torch and torchvision, MB | install, s | processor, s |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        base = download(sorted(shared), Path(folder) / "shared")
        for tool in tools:
            files = Path(folder) / tool
            sizes = download([str(wheel) if tool == "nextify" and wheel else tool], files)
            beyond = {name: size for name, size in sizes.items() if name not in base}
            environment = Path(folder) / "environment"
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
            pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
            start = time.perf_counter()
            used, _ = spent([*pip, *map(str, files.iterdir())])
            total, rest = (sum(part.values()) / 1e6 for part in (sizes, beyond))
            row = (tool, len(sizes), f"{total:.0f}", f"{rest:.0f}", f"{time.perf_counter() - start:.0f}", f"{used:.0f}")
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            for file in files.iterdir():
                file.unlink()


def download(packages: list[str], folder: Path) -> dict[str, int]:
    """Fetch packages with all that they need; bytes of each file by name and version."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *packages], check=True)
    return {"-".join(file.name.split("-")[:2]): file.stat().st_size for file in folder.iterdir()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "install"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wheel", type=Path, help="nextify's wheel; default: nextify from the index")
    parser.add_argument("--tools", nargs="+", default=["nextify", "timm", "ultralytics"])
    given = parser.parse_args()
    if given.what == "predict":
        predict(given.rounds, given.threads)
    else:
        install(given.tools, given.wheel)
