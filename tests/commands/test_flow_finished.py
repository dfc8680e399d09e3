"""What changes in a workspace that has everything, and what it costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.features.extractor import Extractor
from pipeline.workspace import Workspace
from tests.commands.stored import stored_hashes, usable
from tests.conftest import write_images

Run = Callable[..., Result]


class TestFinished:
    @pytest.fixture
    def workspace(self, finished: Workspace) -> Workspace:
        return finished

    @pytest.fixture
    def photos(self, workspace: Workspace) -> Path:
        return workspace.root.parent / "photos"

    @pytest.fixture
    def forwarded(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many images went through the network, batch by batch."""
        counts: list[int] = []
        original = Extractor.forward

        def forward(extractor: Extractor, pixels: Any) -> Any:
            counts.append(len(pixels))
            return original(extractor, pixels)

        monkeypatch.setattr(Extractor, "forward", forward)
        return counts

    def test_source_missing__store_complete(self, run: Run, workspace: Workspace, photos: Path) -> None:
        shutil.rmtree(photos)
        before = workspace.manifest_file.read_bytes()
        result = run("prepare")
        (line,) = result.stderr.splitlines()
        assert line.startswith("warning: ")
        assert "photos: no such folder or archive" in line
        assert "Going on with the manifest as it was: the store holds all its features" in line
        assert workspace.manifest_file.read_bytes() == before
        run("extract")
        run("train", "logreg")
        run("evaluate", "logreg")

    def test_source_missing__store_incomplete(self, run: Run, workspace: Workspace, photos: Path) -> None:
        shutil.rmtree(photos)
        next(workspace.store_folder.glob("*.h5")).unlink()
        before = workspace.manifest_file.read_bytes()
        assert "photos: no such folder or archive" in run("prepare", code=1).stderr
        assert workspace.manifest_file.read_bytes() == before

    def test_one_new_image_computes_one(
        self, run: Run, workspace: Workspace, photos: Path, forwarded: list[int]
    ) -> None:
        index = workspace.index_file.read_bytes()
        write_images(photos, {"cat": 21})
        assert json.loads(run("prepare", "--json").stdout)["added"] == 1
        report = json.loads(run("extract", "--json").stdout)
        assert {key: report[key] for key in ("images", "computed", "reused", "copies")} == {
            "images": 41, "computed": 1, "reused": 40, "copies": 0,
        }  # fmt: skip
        assert forwarded == [1]
        assert workspace.index_file.read_bytes() != index
        assert stored_hashes(workspace) == {row.sha256 for row in usable(workspace)}
        assert run("evaluate", "logreg", code=1).stderr.endswith("Run `pipeline train logreg` again.\n")
        run("train", "logreg")
        run("evaluate", "logreg")

    def test_relabelled_image_computes_none(
        self, run: Run, workspace: Workspace, photos: Path, forwarded: list[int]
    ) -> None:
        training = next(row for row in usable(workspace) if row.split == "train" and row.label == "cat")
        name = Path(training.path).name
        (photos / "cat" / name).rename(photos / "dog" / name)
        run("prepare")
        report = json.loads(run("extract", "--json").stdout)
        assert (report["computed"], report["reused"], forwarded) == (0, 40, [])
        moved = next(row for row in usable(workspace) if row.sha256 == training.sha256)
        assert (moved.label, moved.split) == ("dog", "train")
        run("evaluate", "logreg", code=1)  # it learned the old label
        assert json.loads(run("train", "logreg", "--json").stdout)["rows"] == 28
        run("evaluate", "logreg")

    def test_renamed_and_copied_images_compute_none(
        self, run: Run, photos: Path, forwarded: list[int]
    ) -> None:
        (photos / "cat" / "cat-000.png").rename(photos / "cat" / "renamed.png")
        shutil.copyfile(photos / "dog" / "dog-000.png", photos / "dog" / "copy.png")
        run("prepare")
        report = json.loads(run("extract", "--json").stdout)
        assert {key: report[key] for key in ("images", "computed", "reused", "copies")} == {
            "images": 41, "computed": 0, "reused": 40, "copies": 1,
        }  # fmt: skip
        assert forwarded == []

    def test_fresh__another_extractor_and_back_gets_the_same(
        self, run: Run, workspace: Workspace, forwarded: list[int]
    ) -> None:
        index = workspace.index_file.read_bytes()
        shards = sorted(path.name for path in workspace.store_folder.glob("*.h5"))
        before = workspace.params_file.read_bytes()
        write_params(workspace.params_file, {"extract.storage": "float32"})
        run("extract", "--fresh", "--batch-size", "7")
        assert workspace.index_file.read_bytes() != index
        workspace.params_file.write_bytes(before)
        run("extract", "--fresh", "--batch-size", "7")
        assert sum(forwarded) == 80
        run("extract", "--fresh")
        assert sum(forwarded) == 80
        assert workspace.index_file.read_bytes() == index
        assert sorted(path.name for path in workspace.store_folder.glob("*.h5")) == shards

    def test_nothing_to_do_writes_nothing(self, run: Run, workspace: Workspace) -> None:
        files = [
            workspace.manifest_file,
            workspace.index_file,
            workspace.metrics_file("logreg", "val"),
            *workspace.store_folder.glob("[!.]*"),
        ]
        before = {path: path.stat().st_mtime_ns for path in files}
        for command in (["prepare"], ["extract"], ["evaluate", "logreg"], ["scores"]):
            run(*command)
        assert {path: path.stat().st_mtime_ns for path in files} == before
