"""Run the tests with the oldest or the newest versions of its dependencies that pyproject.toml allows (make bounds).

uv resolves and installs them into a new virtual environment, which is deleted afterwards; with CUDA about 8 GB.

    python tools/bounds.py oldest
    python tools/bounds.py newest --python 3.13 -- tests/cli -x
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}
"""The oldest of what we name ourselves, each with the newest of what it needs in turn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=RESOLUTION)
    parser.add_argument("--python", default=sys.executable, help="a version or an interpreter")
    parser.add_argument("tests", nargs="*", help="what pytest is to run; default: the default suite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uv = [sys.executable, "-m", "uv", "--no-cache"]
        subprocess.run([*uv, "venv", "--quiet", "--python", given.python, folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        resolution = RESOLUTION[given.which]
        wanted = ["--python", python, "--resolution", resolution, "--editable", f"{ROOT}[dev]"]
        subprocess.run([*uv, "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([*uv, "pip", "freeze", "--python", python], check=True)
        tests = [python, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *given.tests]
        return subprocess.run(tests, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
