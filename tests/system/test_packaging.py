"""What is shipped: the wheel and its kernels, the extras, and the files about the project."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import nextify
from nextify.cli import SEE
from nextify.cli.doctor import EXTRAS
from nextify.system import native
from tests.kernels.helpers import needs_kernels

ROOT = Path(nextify.__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

RESULTS = """
import hashlib, json, sys, torch
from nextify.data import affine, jpeg
from nextify.kernels import install
from nextify.networks.zoo import create_model
from nextify.system import native
torch.set_num_threads(1)
hashes = []
for mode, dtype in (("auto", torch.float32), ("on", torch.float32), ("on", torch.bfloat16)):
    torch.manual_seed(0)
    model, images = create_model("convnext_atto", num_classes=3), torch.randn(2, 3, 64, 64)
    install(model, mode)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        y = model(images)
    y.float().square().sum().backward()
    for t in (y, *(p.grad for p in model.parameters())):
        hashes.append(hashlib.sha256(t.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest())
    with torch.inference_mode():
        hashes.append(hashlib.sha256(model.eval()(images).numpy().tobytes()).hexdigest())
for library in native.declared.values():
    library.build()
print(json.dumps({"notes": native.notes(), "hashes": hashes}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed without its dependencies."""
    if native.level() is None:
        pytest.skip("kernels are not prebuilt for this processor")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, str(ROOT / "tools" / "wheel.py"), "--out", str(folder / "dist")]
    subprocess.run(command, check=True, cwd=folder, timeout=900)
    (wheel,) = (folder / "dist").iterdir()
    assert re.fullmatch(r"nextify-.*-py3-none-manylinux_2_\d+_.*\.whl", wheel.name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(pip, check=True, timeout=300)
    return folder / "site"


@needs_kernels
@pytest.mark.slow
def test_a_wheel_brings_its_kernels_which_give_the_bits_of_compiled_ones(installed: Path, tmp_path: Path) -> None:
    found = {}
    for name, packages in (("prebuilt", installed), ("compiled", ROOT / "src")):
        environment = {"PYTHONPATH": str(packages), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
        environment |= {"PATH": "/nowhere"} if name == "prebuilt" else {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", RESULTS], env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
        for note in found[name]["notes"].values():
            assert note.startswith(f"{name}"), note
        assert set(found[name]["notes"]) >= {"affine", "jpeg", "gelu", "blocks", "strips", "pixelwise"}
        assert (tmp_path / "nextify").exists() == (name == "compiled")
    assert found["prebuilt"]["hashes"] == found["compiled"]["hashes"]
    for name, note in found["prebuilt"]["notes"].items():
        if name != "jpeg":  # whose path to libjpeg-turbo auditwheel has written into it
            brought, compiled = (Path(text.partition("from ")[2]) for text in (note, found["compiled"]["notes"][name]))
            assert brought.read_bytes() == compiled.read_bytes(), name


def test_doctor_knows_every_extra() -> None:
    assert list(EXTRAS) == [name for name in PROJECT["optional-dependencies"] if name != "dev"]


def test_every_requirement_has_a_tested_version_within_its_bounds() -> None:
    tested = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            tested[re.sub("[-_.]+", "-", pin.name).lower()] = next(iter(pin.specifier)).version
    extras = PROJECT["optional-dependencies"]
    for name in ("data", "dense", "fast", "hub", "huggingface", "onnx", "openvino", "serve", "explain", "dev", ""):
        for text in extras[name] if name else PROJECT["dependencies"]:
            needed = Requirement(text)
            if needed.name != "nextify":
                assert needed.specifier.contains(tested[re.sub("[-_.]+", "-", needed.name).lower()]), text


def test_files_about_the_project_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == nextify.__version__
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2201.03545"
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == nextify.__version__
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text())


@pytest.mark.parametrize("link", sorted({*SEE.values()}))
def test_errors_lead_to_sections_that_exist(link: str) -> None:
    path, _, anchor = link.partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert not anchor or anchor in anchors
