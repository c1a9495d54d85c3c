import os
from pathlib import Path

import pytest

from oaq_repro.data.reading import MissingError, index_by_stem, read_lines, read_xml, reading, require_files
from oaq_repro.errors import InputError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\nlines"), "two"),
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "too large for the memory"),
        (KeyError(), "KeyError"),
        (NotImplementedError("compression type 99"), "compression type 99"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_whatever_a_parser_raises_is_one_message(tmp_path: Path, error: Exception, reason: str) -> None:
    path = tmp_path / "a"
    path.touch()
    with pytest.raises(InputError) as caught, reading(path, "thing", "a whole one"):
        raise error
    assert str(caught.value) == f"{path}: found a damaged thing ({reason}); expected a whole one"


def test_our_errors_and_interruptions_pass(tmp_path: Path) -> None:
    for error in (InputError("ours"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, reading("x", "thing", "a whole one"):
            raise error
        assert caught.value is error
    with pytest.raises(MissingError, match="none: found no such file"), reading(tmp_path / "none", "thing", "one"):
        pytest.fail("is not reached")


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(InputError, match="found a folder, a pipe or a device; expected a file: names"):
            read_lines(path, "names")


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff a b \r\n\r\n\u00e9\u2028c\n".encode())
    assert read_lines(path, "names") == ["a b", "\u00e9\u2028c"]
    path.write_bytes(b"\xe9t\xe9\n")
    with pytest.raises(InputError, match=r"a\.txt: found a damaged list \('utf-8' codec"):
        read_lines(path, "names")


def test_hostile_xml(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    bomb = "".join(f'<!ENTITY x{i + 1} "{f"&x{i};" * 10}">' for i in range(12))
    for text in (
        f'<!DOCTYPE a [<!ENTITY x0 "xxxxxxxx">{bomb}]><a>&x12;</a>',
        '<?xml version="1.0" encoding="no"?><a/>',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.xml: found a damaged xml \("):
            read_xml(path, "an annotation")
    path.write_text("<a>" * 200_000 + "</a>" * 200_000)
    assert read_xml(path, "an annotation").tag == "a"


def test_one_file_of_a_name(tmp_path: Path) -> None:
    for name in ("a.b.JPG", "c.png", "notes.txt"):
        (tmp_path / name).touch()
    assert index_by_stem(tmp_path, (".jpg", ".png")) == {"a.b": tmp_path / "a.b.JPG", "c": tmp_path / "c.png"}
    (tmp_path / "c.jpg").touch()
    with pytest.raises(InputError, match=r"c\.png: found c\.jpg beside it; expected one file of a name"):
        index_by_stem(tmp_path, (".jpg", ".png"))


def test_missing_files_are_counted(tmp_path: Path) -> None:
    require_files(tmp_path, ["a"], {"a"}, "an image")
    with pytest.raises(MissingError, match=r"b\.jpg: found no such file; expected an image"):
        require_files(tmp_path, ["a", "b"], {"a"}, "an image", ".jpg")
    wanted = list("abcdefgh")
    with pytest.raises(
        MissingError, match=r"b: found no such file, nor are 6 more of 8 there: c, d, e, f, g, \.\.\.; "
    ):
        require_files(tmp_path, wanted, {"a"}, "an image")
