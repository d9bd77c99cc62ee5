"""Files are written whole or not at all."""

import json

import pytest

from nextify.system import files


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.json"
    files.write_text_atomic(path, "old\r\n")
    assert path.read_bytes() == b"old\r\n"
    files.write_json_atomic(str(path), {"é": [1, None]})
    assert json.loads(path.read_text("utf-8")) == {"é": [1, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.json"
    files.write_text_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, full)
    with pytest.raises(OSError, match="No space left on device, 3 bytes needed") as error:
        files.write_text_atomic(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, b"[" * 100_000, "[" * 100_000 + "]" * 100_000])
def test_deeply_nested_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        files.parse_json(text)


def test_what_json_lacks_touches_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json_atomic(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_text_atomic(tmp_path / "no" / "a.txt", "a")


def test_a_link_to_a_folder_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to("real")
    with files.fresh_folder(tmp_path / "link") as fresh:
        (fresh / "new").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["new"]
    assert (tmp_path / "link").is_symlink()
