"""Images as people have them: what is odd is used, what is broken is named in one line, by every command."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextify.cli import main
from nextify.data import open_images
from nextify.deploy.runners import predict
from tests.helpers import Captured, noise, tiny_bundle

CLASSES = ("cat", "dog")
HERE = ("--device", "cpu", "--threads", "1")
LONG = "ü" * 125 + "x.png"  # 255 bytes, the most that common file systems take
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "bundle", CLASSES, 16, 1.0)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Eight images of each class to train on, two to test on."""
    for part, count in (("train", 8), ("val", 2)):
        for c, name in enumerate(CLASSES):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise(100 * c + 10 * i + count)).save(folder / f"{i}.png")
    return tmp_path / "pets"


def run(command: str, bundle: Path, data: Path, out: Path) -> list[str]:
    if command == "train":
        small = ("--epochs", "1", "--scale", "tiny", "--image-size", "16")
        return ["train", "convnext_atto", "--data", str(data), "--out", str(out), *small, *HERE]
    if command == "evaluate":
        return ["evaluate", str(bundle), "--data", str(data), *HERE]
    return ["predict", str(bundle), str(data), *HERE]


def errors(capsys: Captured) -> list[str]:
    """Lines of stderr without notes and warnings."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if not line.startswith(("nextify: note: ", "nextify: warning: "))]


# -- broken --------------------------------------------------------------------------------------------------------


def huge_png(width: int, height: int) -> bytes:
    """A black RGB PNG whose file is a thousandth of its pixels. The compressed stream is put together by hand, from one
    compressed piece many times over, so that it takes no time to make."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    total = height * (1 + 3 * width)  # bytes to compress, all of them 0
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = 2**20
    one = deflate.compress(bytes(piece)) + deflate.flush(zlib.Z_FULL_FLUSH)  # stands by itself, so may be repeated
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = b"\x78\x01" + one * (total // piece) + last.compress(bytes(total % piece)) + last.flush()
    stream += struct.pack(">I", (total % 65_521) << 16 | 1)  # Adler-32 of so many zeros
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def truncated(path: Path) -> None:
    Image.fromarray(noise(1, 200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def cut_in_the_header(path: Path) -> None:
    Image.fromarray(noise(1)).save(path)
    path.write_bytes(path.read_bytes()[:30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is no image\n")


def huge(path: Path) -> None:
    path.write_bytes(huge_png(30_000, 30_000))


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def floats(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(path)


BROKEN: list[tuple[Callable[[Path], None], str, str]] = [
    (truncated, "bad.jpg", "truncated"),
    (cut_in_the_header, "bad.jpg", ""),
    (empty, "bad.jpg", "empty file"),
    (text, "bad.jpg", "not an image"),
    (huge, "bad.png", "more than 178 million pixels"),
    (dangling, "bad.png", "dangling link"),
    (floats, "bad.tif", "its pixels are floats"),
]


@pytest.mark.parametrize(("make", "name", "reason"), BROKEN)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_a_broken_image_is_named_in_one_line(
    capsys: Captured, bundle: Path, pets: Path, command: str, make: Callable[[Path], None], name: str, reason: str
) -> None:
    folder = pets / "val" / "dog"
    make(folder / name)
    code = main(run(command, bundle, folder if command == "predict" else pets, pets.parent / "out"))
    (line,) = errors(capsys)
    if command == "predict":
        assert code == 1
        assert line.startswith(f"nextify: {folder / name}: ")
    else:
        assert code == 2
        assert line.startswith("nextify: 1 of 21 images cannot be read: ")
        assert f"val/dog/{name} (" in line
        assert line.endswith("replace them, move them elsewhere, or leave them out with --skip-unreadable")
        assert not (pets.parent / "out").exists() or not list((pets.parent / "out").glob("*/bundle"))
    assert reason in line


def test_the_others_are_predicted_all_the_same(bundle: Path, pets: Path) -> None:
    for make, name, _ in BROKEN:
        make(pets / "val" / "dog" / f"{make.__name__}-{name}")
    found = predict(bundle, [pets / "val"])
    assert [bool(p.guesses) for p in found] == [not p.error for p in found]
    assert (sum(not p.error for p in found), sum(bool(p.error) for p in found)) == (4, len(BROKEN))


def test_the_huge_picture_is_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(huge_png(1_500, 700))
    with Image.open(tmp_path / "small.png") as image:
        assert (image.size, image.mode) == ((1_500, 700), "RGB")
        assert np.asarray(image).max() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory")
def test_a_huge_picture_costs_neither_time_nor_memory(pets: Path) -> None:
    huge(pets / "val" / "dog" / "huge.png")
    assert (pets / "val" / "dog" / "huge.png").stat().st_size < 4 * 2**20
    code = (
        "import resource, sys, time\n"
        "from nextify.data import DataError, open_images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began = time.perf_counter()\n"
        "try: open_images(sys.argv[1])\n"
        "except DataError as error: print(error)\n"
        "print(time.perf_counter() - began)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(pets)], capture_output=True, text=True, check=True)
    message, seconds, kibibytes = done.stdout.splitlines()
    assert "val/dog/huge.png (more than 178 million pixels)" in message
    assert float(seconds) < 2
    assert int(kibibytes) < 50_000  # decoded it would be 2.7 million


# -- odd, and used -------------------------------------------------------------------------------------------------


def cmyk(path: Path) -> None:
    Image.fromarray(noise(1)).convert("CMYK").save(path.with_suffix(".jpg"))


def palette(path: Path) -> None:
    Image.fromarray(noise(2)).convert("P").save(path.with_suffix(".png"), transparency=0)


def sixteen_bits(path: Path) -> None:
    deep = np.random.default_rng(3).integers(0, 2**16, (16, 16), np.uint16)
    Image.fromarray(deep).save(path.with_suffix(".png"))


def animated(path: Path) -> None:
    frames = [Image.fromarray(noise(i)) for i in range(4, 7)]
    for suffix in (".gif", ".webp"):
        frames[0].save(path.with_suffix(suffix), save_all=True, append_images=frames[1:])


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise(8, 10, 30)).save(path.with_suffix(".jpg"), exif=exif)


def bilevel(path: Path) -> None:
    Image.fromarray(noise(9)).convert("1").save(path.with_suffix(".bmp"))


def named(path: Path) -> None:
    for i, name in enumerate((LONG, "名前 🐱.png", 'it\'s "odd" [b] %s {x}.png', "-v.png")):
        Image.fromarray(noise(10 + i)).save(path.with_name(name))
    Path(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png")).write_bytes((path.parent / LONG).read_bytes()[:])


ODD = (cmyk, palette, sixteen_bits, animated, rotated, bilevel, named)


def test_odd_images_are_trained_evaluated_and_predicted(capsys: Captured, pets: Path) -> None:
    for part in ("train", "val"):
        for make in ODD:
            make(pets / part / "dog" / make.__name__)
    out = pets.parent / "out"
    assert main(run("train", out, pets, out)) == 0
    printed = capsys.readouterr()
    for said in (
        "2 of 44 images are turned upright by",
        "4 of 44 images are animated",
        "2 of 44 images have transparency",
    ):
        assert said in " ".join(printed.out.split())
    (trained,) = out.glob("*/bundle")
    assert main(run("evaluate", trained, pets, out)) == 0
    assert "on 16 images" in capsys.readouterr().out
    assert main(run("predict", trained, pets / "val", out)) == 0
    printed = capsys.readouterr()
    assert not printed.err
    for name in (LONG, "名前 🐱.png", "caf�.png", "%s {x}.png", "cmyk.jpg"):
        assert name in printed.out


def test_an_orientation_is_honoured_everywhere(bundle: Path, pets: Path, tmp_path: Path) -> None:
    rotated(pets / "train" / "dog" / "turned")
    images = open_images(str(pets))
    index = next(i for i in range(len(images.train)) if "turned" in images.train.name(i))
    with Image.open(pets / "train" / "dog" / "turned.jpg") as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
    assert images.train.load(index).shape == (30, 10, 3)
    np.testing.assert_array_equal(images.train.load(index), np.asarray(upright))
    upright.save(tmp_path / "upright.png")
    turned, plain = predict(bundle, [pets / "train" / "dog" / "turned.jpg", tmp_path / "upright.png"])
    assert turned.guesses == plain.guesses


def test_names_that_the_terminal_cannot_write(bundle: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(pets / "val" / "dog" / "x")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(run("predict", bundle, pets / "val", pets)) == 0
    terminal.seek(0)
    assert "\\u540d\\u524d" in terminal.read()


# -- folders and labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_a_folder_that_may_not_be_read(
    capsys: Captured, bundle: Path, pets: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir = pets / "val" / "dog", os.scandir

    def refuse(path: Any = ".") -> Any:  # root may read everything, so the system's answer is played
        if Path(os.fsdecode(path)) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code = main(run(command, bundle, pets, pets.parent / "out"))
    (line,) = errors(capsys)
    if command == "predict":
        assert (code, line) == (1, f"nextify: {closed}: Permission denied")
    else:
        assert (code, line) == (2, f"nextify: {closed} cannot be read (Permission denied): check its permissions")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_one_image_a_class(capsys: Captured, bundle: Path, tmp_path: Path, command: str) -> None:
    for i, name in enumerate(CLASSES):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.fromarray(noise(i)).save(tmp_path / "few" / name / "1.png")
    assert main(run(command, bundle, tmp_path / "few", tmp_path / "out")) == 2
    assert errors(capsys) == [
        "nextify: every class has only one image, so none is left to test on: add images, or a val/ folder"
    ]


def test_one_training_image_a_class_is_trained_with_a_warning(capsys: Captured, bundle: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for i in range(16):
            (tmp_path / "few" / part / f"kind{i}").mkdir(parents=True)
            Image.fromarray(noise(i)).save(tmp_path / "few" / part / f"kind{i}" / f"{part}.png")
    assert main(run("train", bundle, tmp_path / "few", tmp_path / "out")) == 0
    printed = capsys.readouterr()
    warning = "fewer than 5 training images of kind0, kind1, kind2, kind3, kind4 and 11 more: fine-tune from --weights"
    assert warning in printed.err
    assert "16 test images are also training images" in " ".join(printed.out.split())


def test_contradicting_labels_of_a_manifest_are_warned_of(capsys: Captured, bundle: Path, pets: Path) -> None:
    rows = [f"{path.relative_to(pets)},{path.parent.name},{path.parent.parent.name}" for path in pets.glob("*/*/*")]
    rows += ["train/cat/0.png,dog,train", "train/dog/0.png,cat,train"]
    (pets / "m.csv").write_text("path,label,split\n" + "\n".join(sorted(rows)))
    for command in ("train", "evaluate"):
        assert main(run(command, bundle, pets / "m.csv", pets.parent / "out")) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "more than one class" in line]
        assert "2 images appear in more than one class (train/cat/0.png as cat and train/cat/0.png as dog;" in line


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_manifest_without_labels_is_refused(capsys: Captured, bundle: Path, pets: Path, command: str) -> None:
    (pets / "m.csv").write_text("path,label\ntrain/cat/0.png,\ntrain/dog/0.png,dog\n")
    assert main(run(command, bundle, pets / "m.csv", pets.parent / "out")) == 2
    assert errors(capsys) == ["nextify: 1 row of m.csv has no label: row 2; fill them in or leave those rows out"]
