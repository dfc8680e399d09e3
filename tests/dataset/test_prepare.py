"""The first stage from end to end: a folder goes in, a manifest comes out."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.dataset import looks, verdicts
from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.dataset.prepare import prepare
from pipeline.errors import ManifestError, ParamsError, SourceError, SourceMissing
from pipeline.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]


def png(number: int) -> bytes:
    """Make one of 65,536 different images."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files here are a moment old, and verdicts on such are otherwise not remembered."""
    monkeypatch.setattr("pipeline.files._SETTLED_NS", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 20 cats and 20 dogs."""
    fill(tmp_path / "source" / "cat", range(20))
    fill(tmp_path / "source" / "dog", range(100, 120))
    return tmp_path / "source"


@pytest.fixture
def make_workspace(tmp_path: Path) -> MakeWorkspace:
    def make(source: Path | str, **dataset: object) -> Workspace:
        root = tmp_path / "workspace"
        root.mkdir(exist_ok=True)
        lines = "".join(f"  {key}: {value}\n" for key, value in dataset.items())
        (root / "params.yaml").write_text(f"dataset:\n  source: {source}\n{lines}")
        return Workspace(root)

    return make


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Names of the files that were looked into, and whether they were decoded."""
    seen: list[tuple[str, bool]] = []
    real = verdicts.examine

    def examine(files: list[Path], *, decode: bool = True) -> object:
        seen.extend((file.name, decode) for file in files)
        return real(files, decode=decode)

    monkeypatch.setattr(looks, "examine", examine)
    return seen


def manifest(workspace: Workspace) -> dict[str, ImageRow]:
    return {row.path: row for row in read_manifest(workspace.manifest_file).rows}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_folder_of_class_folders(source: Path, make_workspace: MakeWorkspace) -> None:
    untouched = snapshot(source)
    workspace = make_workspace(source)
    report = prepare(workspace)
    assert report.counts == {label: {"train": 14, "val": 3, "test": 3} for label in ("cat", "dog")}
    assert (report.usable, report.added, report.changed) == (40, 40, True)
    assert (report.quarantined, report.conflicts, report.duplicates, report.ignored) == ((), (), 0, 0)
    row = manifest(workspace)["cat/7.png"]
    assert row.sha256 == hashlib.sha256(png(7)).hexdigest()
    assert (row.label, row.bytes, row.width, row.height, row.status) == ("cat", len(png(7)), 3, 2, "ok")
    assert snapshot(source) == untouched


def test_a_second_run_looks_into_nothing_and_changes_nothing(
    source: Path, make_workspace: MakeWorkspace, looked: list[tuple[str, bool]]
) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = snapshot(workspace.root)
    looked.clear()
    report = prepare(workspace)
    assert looked == []
    assert not report.changed
    assert (report.added, report.removed, report.replaced, report.relabelled) == (0, 0, 0, 0)
    assert snapshot(workspace.root) == before


def test_the_same_images_give_the_same_bytes_anywhere(
    source: Path, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    first = workspace.manifest_file.read_bytes()
    shutil.rmtree(workspace.root)
    shutil.copytree(source, tmp_path / "elsewhere")
    prepare(make_workspace(tmp_path / "elsewhere"))
    assert workspace.manifest_file.read_bytes() == first


def test_growth_change_and_removal(
    source: Path, make_workspace: MakeWorkspace, looked: list[tuple[str, bool]]
) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = manifest(workspace)
    looked.clear()
    fill(source / "cat", range(20, 40))
    (source / "cat" / "0.png").write_bytes(png(999))
    (source / "dog" / "100.png").unlink()
    (source / "dog" / "101.png").rename(source / "cat" / "101.png")
    report = prepare(workspace)
    assert sorted(name for name, _ in looked) == sorted([f"{i}.png" for i in (0, 101, *range(20, 40))])
    assert (report.added, report.removed, report.moved) == (20, 1, 1)
    assert (report.replaced, report.relabelled) == (1, 1)
    now = manifest(workspace)
    assert all(now[path].split == before[path].split for path in now.keys() & before.keys() - {"cat/0.png"})
    assert now["cat/101.png"].split == before["dog/101.png"].split
    assert report.counts["cat"] == {"train": 29, "val": 6, "test": 6}


def test_a_change_that_hides_behind_size_and_times_is_found_by_rehash(
    source: Path, make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as on a file system that keeps no change times
    monkeypatch.setattr("pipeline.files._stamp", lambda status: [status.st_size, status.st_mtime_ns])
    workspace = make_workspace(source)
    prepare(workspace)
    file = source / "cat" / "0.png"
    status = file.stat()
    assert len(png(1)) == len(png(0))
    file.write_bytes(png(200))
    assert file.stat().st_size == status.st_size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not prepare(workspace).changed
    assert prepare(workspace, rehash=True).replaced == 1
    assert manifest(workspace)["cat/0.png"].sha256 == hashlib.sha256(png(200)).hexdigest()


def test_resplit_starts_over(source: Path, make_workspace: MakeWorkspace) -> None:
    prepare(make_workspace(source, seed=0))
    workspace = make_workspace(source, seed=1)
    assert not prepare(workspace).changed
    before = manifest(workspace)
    assert prepare(workspace, resplit=True).changed
    now = manifest(workspace)
    assert any(now[path].split != before[path].split for path in now)


def test_other_shares_are_not_applied_silently(
    source: Path, make_workspace: MakeWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(make_workspace(source))
    workspace = make_workspace(source, split="{train: 0.5, val: 0.25, test: 0.25}")
    capsys.readouterr()
    assert not prepare(workspace).changed
    assert (
        "warning: images keep the split they had (train 0.70, val 0.15, test 0.15)" in capsys.readouterr().err
    )
    assert prepare(workspace, resplit=True).counts["cat"] == {"train": 10, "val": 5, "test": 5}
    assert "warning" not in capsys.readouterr().err


def test_quarantine_conflict_and_copies(source: Path, make_workspace: MakeWorkspace) -> None:
    (source / "cat" / "666.jpg").touch()
    (source / "dog" / "11702.jpg").touch()  # the same bytes under two labels, and yet no image
    (source / "cat" / "half.png").write_bytes(png(1)[:50])
    (source / "dog" / "cat.png").write_bytes(png(5))
    (source / "cat" / "copy.png").write_bytes(png(6))
    (source / "Thumbs.db").write_bytes(b"litter")
    workspace = make_workspace(source)
    report = prepare(workspace)
    rows = manifest(workspace)
    assert {row.path: row.reason for row in report.quarantined} == {
        "cat/666.jpg": "empty_file",
        "dog/11702.jpg": "empty_file",
        "cat/half.png": "truncated",
    }
    assert report.reasons == {"empty_file": 2, "truncated": 1}
    assert {row.path for row in report.conflicts} == {"cat/5.png", "dog/cat.png"}
    assert rows["cat/5.png"].status == "conflict"
    assert rows["cat/5.png"].split == ""
    assert report.duplicates == 1
    assert rows["cat/copy.png"].split == rows["cat/6.png"].split
    assert report.ignored == 1
    assert report.usable == 40
    (source / "dog" / "cat.png").unlink()  # corrected
    assert prepare(workspace).conflicts == ()


def test_a_labels_csv_with_groups_and_splits(tmp_path: Path, make_workspace: MakeWorkspace) -> None:
    fill(tmp_path / "source", range(24))
    lines = [
        f"{i}.png,{'ab'[i % 2]},{f'g{i // 4}' if i < 8 else ''},{'test' if i == 23 else ''}"
        for i in range(24)
    ]
    (tmp_path / "source" / "labels.csv").write_text("path,label,group,split\n" + "\n".join(lines) + "\n")
    workspace = make_workspace(tmp_path / "source")
    prepare(workspace)
    rows = manifest(workspace)
    for start in (0, 4):
        assert len({rows[f"{i}.png"].split for i in range(start, start + 4)}) == 1
    assert rows["23.png"].split == "test"
    assert rows["0.png"].group == "g0"


def test_own_split_folders(
    tmp_path: Path, make_workspace: MakeWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "source" / "train" / "a", range(10))
    fill(tmp_path / "source" / "train" / "b", range(10, 20))
    fill(tmp_path / "source" / "val" / "a", range(20, 24))
    (tmp_path / "source" / "val" / "a" / "leak.png").write_bytes(png(3))
    workspace = make_workspace(tmp_path / "source")
    report = prepare(workspace)
    assert report.counts == {
        "a": {"train": 10, "val": 5, "test": 0},
        "b": {"train": 10, "val": 0, "test": 0},
    }
    said = capsys.readouterr().err
    assert "warning: val has no image of class 'b'" in said
    assert "warning: no image is in test" in said
    assert "warning: 2 images are copies" in said
    assert "train/a/3.png and val/a/leak.png" in said


def test_limit_examines_no_more_than_it_takes(
    source: Path, make_workspace: MakeWorkspace, looked: list[tuple[str, bool]]
) -> None:
    by_hash = sorted((hashlib.sha256(png(number)).hexdigest(), number) for number in range(20))
    (source / "cat" / "damaged.png").write_bytes(next(
        data for data in (png(1)[:40] + bytes([i]) for i in range(256))
        if hashlib.sha256(data).hexdigest() < by_hash[2][0]
    ))  # fmt: skip
    (source / "cat" / "empty.png").touch()
    workspace = make_workspace(source, limit=8)
    report = prepare(workspace)
    assert {label: sum(splits.values()) for label, splits in report.counts.items()} == {"cat": 4, "dog": 4}
    taken = {row.path for row in manifest(workspace).values() if row.status == "ok" and row.label == "cat"}
    assert taken == {f"cat/{number}.png" for _, number in by_hash[:4]}
    assert {row.path for row in report.quarantined} == {"cat/damaged.png", "cat/empty.png"}
    assert Counter(decode for _, decode in looked) == {False: 42, True: 9}
    looked.clear()
    assert not prepare(workspace).changed
    assert looked == []
    assert prepare(make_workspace(source, limit="null")).usable == 40


@pytest.mark.parametrize("layout", ["nothing", "one class", "single image", "two copies", "all damaged"])
def test_what_nothing_can_be_learned_from(layout: str, tmp_path: Path, make_workspace: MakeWorkspace) -> None:
    fill(tmp_path / "good" / "a", range(9))
    fill(tmp_path / "good" / "b", range(10, 19))
    workspace = make_workspace(tmp_path / "good")
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    expected = {
        "nothing": r"bad: ",
        "one class": r"bad: one class only, 'a'; at least two are needed\. Expected one folder a class",
        "single image": r"a single usable image \(copies counted once\) in class 'b'.*remove the class",
        "two copies": r"bad: a single usable image",
        "all damaged": r"bad: none of 2 images can be used \(2 empty_file\)",
    }[layout]
    if layout == "all damaged":
        for label in "ab":
            (bad / label).mkdir()
            (bad / label / "1.png").touch()
    elif layout != "nothing":
        fill(bad / "a", range(9))
    if layout in ("single image", "two copies"):
        fill(bad / "b", range(50, 51))
    if layout == "two copies":
        shutil.copy(bad / "b" / "50.png", bad / "b" / "51.png")
    make_workspace(bad)
    with pytest.raises(SourceError, match=expected) as caught:
        prepare(workspace)
    assert "\n" not in str(caught.value)
    assert workspace.manifest_file.read_bytes() == before


def test_a_missing_source_leaves_the_manifest(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    source.rename(source.with_name("away"))
    with pytest.raises(SourceMissing):
        prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before


def test_a_class_without_training_images(tmp_path: Path, make_workspace: MakeWorkspace) -> None:
    fill(tmp_path / "source" / "train" / "a", range(5))
    fill(tmp_path / "source" / "train" / "b", range(10, 15))
    fill(tmp_path / "source" / "test" / "c", range(20, 25))
    with pytest.raises(SourceError, match="no training image of class 'c'"):
        prepare(make_workspace(tmp_path / "source"))


def test_a_limit_too_small_for_the_classes(source: Path, make_workspace: MakeWorkspace) -> None:
    with pytest.raises(ParamsError, match=r"dataset\.limit: 3 images are too few for 2 classes.*at least 4"):
        prepare(make_workspace(source, limit=3))


def test_a_malformed_manifest_is_not_replaced_unasked(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    text = workspace.manifest_file.read_text()
    workspace.manifest_file.write_text(text.replace("cat/3.png", "zebra", 1))
    with pytest.raises(ManifestError, match="--resplit"):
        prepare(workspace)
    assert "zebra" in workspace.manifest_file.read_text()
    assert prepare(workspace, resplit=True).added == 40
    assert workspace.manifest_file.read_text() == text


def test_an_interrupted_run_keeps_its_verdicts(
    source: Path, make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(source)
    real = verdicts.examine
    asked: list[int] = []

    def stop_half_way(files: list[Path], *, decode: bool = True) -> object:
        asked.append(len(files))
        for index, verdict in enumerate(real(files, decode=decode)):
            if index == 25 and len(asked) == 1:
                raise KeyboardInterrupt
            yield verdict

    monkeypatch.setattr(looks, "examine", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        prepare(workspace)
    assert not workspace.manifest_file.exists()
    assert prepare(workspace).usable == 40
    assert asked == [40, 15]


def test_failures_that_may_pass_are_looked_into_again(
    source: Path, make_workspace: MakeWorkspace, looked: list[tuple[str, bool]]
) -> None:
    (source / "cat" / "damaged.png").write_bytes(b"no image")
    gone = source / "cat" / "gone.png"
    gone.write_bytes(png(500))
    workspace = make_workspace(source)
    real = verdicts.examine

    def losing_one(files: list[Path], *, decode: bool = True) -> object:
        gone.rename(gone.with_suffix(".away"))
        try:
            yield from real(files, decode=decode)
        finally:
            gone.with_suffix(".away").rename(gone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "examine", losing_one)
        report = prepare(workspace)
    assert report.reasons == {"unsupported_format": 1, "vanished": 1}
    looked.clear()
    assert prepare(workspace).reasons == {"unsupported_format": 1}
    assert looked == [("gone.png", True)]


def test_a_run_without_news_loads_no_decoder(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    script = (
        "import sys; from pathlib import Path; import pipeline.files; pipeline.files._SETTLED_NS = 0\n"
        "from pipeline.workspace import Workspace; from pipeline.dataset.prepare import prepare\n"
        "prepare(Workspace(Path(sys.argv[1])))\n"
        "print([name for name in ('PIL.Image', 'torch', 'sklearn', 'h5py') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(workspace.root)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


def test_a_class_without_a_usable_image_is_named(
    source: Path, make_workspace: MakeWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "owl").mkdir()
    (source / "owl" / "1.jpg").write_bytes(b"not an image")
    report = prepare(make_workspace(source))
    assert "owl" not in report.counts
    assert "class 'owl' is left out: none of its images can be used (1 unsupported_format)" in (
        capsys.readouterr().err
    )


def test_a_source_that_is_not_named_replaces_nothing(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    workspace.params_file.write_text("")
    with pytest.raises(ParamsError, match=r"params.yaml: dataset.source is missing. Name a folder"):
        prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before
