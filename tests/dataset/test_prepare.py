"""The first stage from end to end: a folder goes in, a manifest comes out."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.dataset.prepare import prepare
from pipeline.workspace import Workspace
from tests.dataset.preparing import fill, looked, make_workspace, png, settled, source

__all__ = ["looked", "make_workspace", "settled", "source"]  # fixtures

MakeWorkspace = Callable[..., Workspace]


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
