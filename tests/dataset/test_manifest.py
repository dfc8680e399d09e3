"""The manifest's format: what is written is read again, and nothing malformed is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.dataset.manifest import HEADER, ImageRow, Manifest, read_manifest, write_manifest
from pipeline.errors import ManifestError

HASH = hashlib.sha256(b"").hexdigest()
ROWS = (
    ImageRow("a/1.png", "a", "train", "", HASH, 10, 4, 3, "ok", ""),
    ImageRow('a/2, "quoted"\nline.png', "a", "val", "g 1", HASH, 10, 4, 3, "ok", ""),
    ImageRow("b/3.png", "b", "", "", HASH, 0, 0, 0, "quarantined", "empty_file"),
    ImageRow("b/ü.png", "b", "", "", HASH, 10, 4, 3, "conflict", "two_labels"),
    ImageRow("c/1.png", "c", "test", "", HASH, 10, 4, 3, "ok", ""),
)
TEXT = f"""path,label,split,group,sha256,bytes,width,height,status,reason
a/1.png,a,train,,{HASH},10,4,3,ok,
"a/2, ""quoted""
line.png",a,val,g 1,{HASH},10,4,3,ok,
b/3.png,b,,,{HASH},0,0,0,quarantined,empty_file
b/ü.png,b,,,{HASH},10,4,3,conflict,two_labels
c/1.png,c,test,,{HASH},10,4,3,ok,
"""


def test_bytes_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "data" / "manifest.csv"
    assert write_manifest(file, ROWS)
    assert file.read_bytes() == TEXT.encode()


def test_order_of_the_rows_does_not_matter_and_an_equal_file_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    write_manifest(file, ROWS)
    before = file.stat()
    assert not write_manifest(file, reversed(ROWS))
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", ROWS)
    assert read_manifest(tmp_path / "manifest.csv") == Manifest(ROWS)


def test_views() -> None:
    manifest = Manifest(ROWS)
    assert [row.path for row in manifest.usable] == [ROWS[0].path, ROWS[1].path, ROWS[4].path]
    assert manifest.classes == ("a", "c")
    assert manifest.of_split("val") == (ROWS[1],)


def test_an_empty_manifest_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", [])
    assert read_manifest(tmp_path / "manifest.csv") == Manifest(())


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.csv: no manifest yet.*pipeline prepare"):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("path,label", "file,label", 1),
        (TEXT, "", 0),
        (f"c/1.png,c,test,,{HASH},10,4,3,ok,\n", "c/1.png,c,test\n", 7),
        ("10,4,3,conflict", "ten,4,3,conflict", 6),
        ("quarantined", "bad", 5),
        ("b/3.png,b,,", "b/3.png,b,test,", 5),
        ("c/1.png,c,test", "c/1.png,c,", 7),
        ("c/1.png,c,test", "c/1.png,c,dev", 7),
        ("c/1.png", "a/1.png", 7),
        ("c/1.png", '"c/1.png', 7),
    ],
)
def test_malformed(old: str, new: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(ManifestError) as caught:
        read_manifest(file)
    message = str(caught.value)
    assert message.startswith(f"{file}, line {line}: ")
    assert "pipeline prepare --resplit" in message
    assert "\n" not in message


def test_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(TEXT.encode().replace("ü".encode(), b"\xff"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "manifest.csv")


def test_header_is_the_contract() -> None:
    assert ",".join(HEADER) == "path,label,split,group,sha256,bytes,width,height,status,reason"
