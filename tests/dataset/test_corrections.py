from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from pipeline.dataset.corrections import Correction, Corrections, read_corrections, write_corrections
from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.dataset.prepare import prepare
from pipeline.errors import ManifestError
from pipeline.workspace import Workspace

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
ODD = Correction('x/"=1",\n.jpg', B, "relabel", "=cat, or not")
OUT = Correction("cat/1.jpg", A, "exclude", "")


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 0, 7)).save(file, "PNG")
    return file.getvalue()


def sha256(number: int) -> str:
    return hashlib.sha256(png(number)).hexdigest()


def fill(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files here are a moment old, and verdicts on such are otherwise not remembered."""
    monkeypatch.setattr("pipeline.files._SETTLED_NS", 0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Twenty cats and twenty dogs, prepared."""
    fill(tmp_path / "source" / "cat", range(20))
    fill(tmp_path / "source" / "dog", range(100, 120))
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "params.yaml").write_text("dataset: {source: ../source}\n")
    prepare(Workspace(root))
    return Workspace(root)


def correct(workspace: Workspace, *corrections: Correction) -> None:
    by_sha256 = {correction.sha256: correction for correction in corrections}
    write_corrections(workspace.corrections_file, Corrections(by_sha256))


def relabel(number: int, label: str) -> Correction:
    return Correction(f"somewhere/{number}.png", sha256(number), "relabel", label)


def exclude(number: int) -> Correction:
    return Correction(f"somewhere/{number}.png", sha256(number), "exclude", "")


def manifest(workspace: Workspace) -> Mapping[str, ImageRow]:
    return {row.path: row for row in read_manifest(workspace.manifest_file).rows}


# --- the file


def test_read__gives_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    corrections = Corrections({A: OUT, B: ODD})
    assert write_corrections(file, corrections)
    assert not write_corrections(file, corrections)
    assert read_corrections(file) == corrections
    assert file.read_text().splitlines()[:2] == ["path,sha256,action,label", f"cat/1.jpg,{A},exclude,"]


def test_read__without_a_file_nothing_is_corrected(tmp_path: Path) -> None:
    assert read_corrections(tmp_path / "corrections.csv") == Corrections({})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected the header path,sha256,action,label"),
        ("path,label\n", "line 1: expected the header"),
        (f"path,sha256,action,label\na,{A},exclude\n", "line 2: expected 4 fields, found 3"),
        ("path,sha256,action,label\na,abc,exclude,\n", "line 2: sha256 'abc': expected 64"),
        (f"path,sha256,action,label\na,{A.upper()},exclude,\n", "expected 64 hexadecimal digits"),
        (f"path,sha256,action,label\na,{A},remove,\n", "action 'remove' is not one of relabel, exclude"),
        (f"path,sha256,action,label\na,{A},relabel,\n", "label '' does not fit the action relabel"),
        (f"path,sha256,action,label\na,{A},exclude,cat\n", "label 'cat' does not fit the action exclude"),
        (f"path,sha256,action,label\na,{A},exclude,\nb,{A},exclude,\n", "line 3: the image 'b' is corrected"),
        (f'path,sha256,action,label\na,{A},exclude,"x', "line 2: unexpected end of data"),
    ],
)
def test_read__malformed(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        read_corrections(file)
    assert str(caught.value).startswith(f"{file}, line ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("Restore it from git, or delete it and apply the corrections again.")


def test_read__not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_bytes(b"path,sha256,action,label\n\xff")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_corrections(file)


def test_merged__later_ones_count_and_restored_ones_are_gone() -> None:
    before = Corrections({A: OUT, B: ODD})
    change = Correction("other.jpg", B, "exclude", "")
    new = Correction("new.jpg", C, "relabel", "dog")
    assert before.merged([change, new], [A]) == Corrections({B: change, C: new})
    assert before.merged([], ["d" * 64]) == before
    assert dict(before.by_sha256) == {A: OUT, B: ODD}


# --- what `prepare` makes of it


def test_prepare__relabels_and_keeps_the_split(workspace: Workspace) -> None:
    before = manifest(workspace)
    in_test = [int(Path(path).stem) for path, row in before.items() if row.split == "test"]
    correct(workspace, *(relabel(number, "owl") for number in [*in_test, 0, 1, 2, 3, 4, 5]))
    report = prepare(workspace)
    now = manifest(workspace)
    assert {path: row.split for path, row in now.items()} == {path: row.split for path, row in before.items()}
    assert {path for path, row in now.items() if row.label == "owl"} == {
        path for path in now if int(Path(path).stem) in {*in_test, *range(6)}
    }
    changed = sum(now[path].label != before[path].label for path in now)
    assert report.relabelled == changed > 6
    assert report.changed
    assert not prepare(workspace).changed


def test_prepare__excludes(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = manifest(workspace)
    correct(workspace, exclude(3), relabel(4, "dog"))
    capsys.readouterr()
    report = prepare(workspace)
    assert "corrections: 1 image relabelled, 1 excluded" in capsys.readouterr().err.splitlines()
    row = manifest(workspace)["cat/3.png"]
    assert (row.status, row.reason, row.split) == ("excluded", "corrections", "")
    assert (row.label, row.sha256, row.width) == ("cat", sha256(3), 3)
    assert report.excluded == (row,)
    assert report.usable == 39
    unchanged = {path: row for path, row in before.items() if path not in ("cat/3.png", "cat/4.png")}
    assert unchanged.items() <= manifest(workspace).items()


def test_prepare__taken_back_all_is_as_before(workspace: Workspace) -> None:
    before = workspace.manifest_file.read_bytes()
    correct(workspace, relabel(4, "dog"), relabel(104, "cat"))
    prepare(workspace)
    assert workspace.manifest_file.read_bytes() != before
    correct(workspace)
    prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before


def test_prepare__a_correction_goes_with_the_bytes(workspace: Workspace) -> None:
    """Copies and moved files are corrected; another image under the old name is not."""
    correct(workspace, relabel(5, "dog"), exclude(6))
    cats = workspace.root.parent / "source" / "cat"
    (cats / "5.png").rename(cats / "moved.png")
    (cats / "copy of 6.png").write_bytes(png(6))
    (cats / "5.png").write_bytes(png(50))
    prepare(workspace)
    now = manifest(workspace)
    assert (now["cat/moved.png"].label, now["cat/5.png"].label) == ("dog", "cat")
    assert (now["cat/6.png"].status, now["cat/copy of 6.png"].status) == ("excluded", "excluded")


def test_prepare__settles_a_conflict(workspace: Workspace) -> None:
    for number in (7, 8):
        (workspace.root.parent / "source" / "dog" / f"also {number}.png").write_bytes(png(number))
    assert len(prepare(workspace).conflicts) == 4
    correct(workspace, relabel(7, "dog"), exclude(8))
    report = prepare(workspace)
    now = manifest(workspace)
    assert report.conflicts == ()
    assert [(now[path].label, now[path].status) for path in ("cat/7.png", "dog/also 7.png")] == [
        ("dog", "ok")
    ] * 2
    assert len({now[path].split for path in ("cat/7.png", "dog/also 7.png")}) == 1
    assert {row.path for row in report.excluded} == {"cat/8.png", "dog/also 8.png"}


def test_prepare__what_cannot_be_decoded_stays_quarantined(workspace: Workspace) -> None:
    broken = png(9)[:40]
    (workspace.root.parent / "source" / "cat" / "9.png").write_bytes(broken)
    correct(workspace, Correction("cat/9.png", hashlib.sha256(broken).hexdigest(), "exclude", ""))
    prepare(workspace)
    assert manifest(workspace)["cat/9.png"].status == "quarantined"


def test_prepare__a_sample_is_of_what_is_left(workspace: Workspace) -> None:
    """With a limit, too, an excluded image is shown, with its size, and another takes its place."""
    workspace.params_file.write_text("dataset: {source: ../source, limit: 12}\n")
    prepare(workspace)
    taken = next(int(Path(path).stem) for path, row in manifest(workspace).items() if row.label == "cat")
    correct(workspace, exclude(taken))
    workspace.image_stat_cache.unlink()
    report = prepare(workspace)
    now = manifest(workspace)
    assert report.usable == 12
    assert sum(row.label == "cat" for row in now.values() if row.status == "ok") == 6
    assert (now[f"cat/{taken}.png"].status, now[f"cat/{taken}.png"].width) == ("excluded", 3)


def test_prepare__a_sample_counts_corrected_labels(workspace: Workspace) -> None:
    correct(workspace, *(relabel(number, "owl") for number in range(10)))
    workspace.params_file.write_text("dataset: {source: ../source, limit: 12}\n")
    report = prepare(workspace)
    assert {label: sum(splits.values()) for label, splits in report.counts.items()} == {
        "cat": 4,
        "dog": 4,
        "owl": 4,
    }


def test_prepare__an_image_that_is_gone_is_a_warning(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(workspace, exclude(11), relabel(250, "cat"), Correction("a\x1b.jpg", A, "exclude", ""))
    capsys.readouterr()
    prepare(workspace)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        f"warning: {workspace.corrections_file}: 2 corrections of images that the source does not hold, or "
        f"holds with other bytes, such as a\\x1b.jpg. Remove the lines if they are gone for good."
    ]
    assert manifest(workspace)["cat/11.png"].status == "excluded"


def test_prepare__malformed_corrections_change_nothing(workspace: Workspace) -> None:
    before = workspace.manifest_file.read_bytes()
    workspace.corrections_file.write_text("path,label\ncat/1.png,dog\n")
    with pytest.raises(ManifestError, match="expected the header"):
        prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before


def test_prepare__never_touches_the_source(workspace: Workspace) -> None:
    source = workspace.root.parent / "source"
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in source.rglob("*.png")}
    correct(workspace, exclude(1), relabel(2, "dog"))
    prepare(workspace)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in source.rglob("*.png")} == before
