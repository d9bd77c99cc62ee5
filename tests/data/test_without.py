"""``--without``: training images that a list names are left out, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nextify.data import DataError, open_images


def test_training_images_go_and_test_images_stay(shapes: Path, tmp_path: Path) -> None:
    whole = open_images(shapes)
    train, test = whole.train.name(4), whole.test.name(0)
    listed = tmp_path / "list.csv"
    listed.write_text(f"score,file\n0.9,{train}\n0.8,{test}\n0.8,{train}\n")
    less = open_images(shapes, without=listed)
    assert [less.train.name(i) for i in range(len(less.train))] == [
        whole.train.name(i) for i in range(len(whole.train)) if whole.train.name(i) != train
    ]
    assert [less.test.name(i) for i in range(len(less.test))] == [whole.test.name(i) for i in range(len(whole.test))]
    assert "1 training image is left out, as list.csv says. It also names 1 test image, which stays." in less.notes
    assert less.left_out["named by list.csv"] == [train]


def test_the_fingerprint_is_that_of_the_content(shapes: Path, tmp_path: Path) -> None:
    whole = open_images(shapes)
    names = [whole.train.name(0), whole.train.name(9)]
    prints = set()
    for name, rows in (("one", names), ("other", names[::-1])):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["file", *rows]))
        prints.add(open_images(shapes, without=path).fingerprint)
    assert len(prints) == 1
    assert whole.fingerprint not in prints


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file\nblue/none.png\nred/none.png\n",
            r"names 2 files that are not among the training or test images: blue/none",
        ),
        ("path\nblue/0.png\n", "has no column file"),
        ("file\n", "names no files"),
        ("", "has no column file"),
        ('file\n"blue/0.png\n', "is not a CSV table"),
        ("file\n" + "\n".join(f"blue/{i}.png" for i in range(24)), "every training image of blue"),
    ],
)
def test_lists_that_cannot_be_followed_are_refused(shapes: Path, tmp_path: Path, content: str, message: str) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(content)
    with pytest.raises(DataError, match=message):
        open_images(shapes, without=listed)


def test_a_pipe_is_refused(shapes: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        open_images(shapes, without=tmp_path / "pipe")


def test_sets_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave it out"):
        open_images("digits", without=tmp_path / "list.csv")
