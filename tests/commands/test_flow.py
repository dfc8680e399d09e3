"""The whole flow through the command line: what each command stores, and says."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.edit_params import write_params
from pipeline.features.extractor import Extractor
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore
from pipeline.params import STAGE_VERSIONS, read_params
from pipeline.workspace import Workspace
from tests.conftest import SMALL_NETWORK, write_images

Run = Callable[..., Result]


def usable(workspace: Workspace) -> tuple[ImageRow, ...]:
    return read_manifest(workspace.manifest_file).usable


def stored_hashes(workspace: Workspace) -> set[str]:
    identity = Identity.from_dict(json.loads(workspace.index_file.read_bytes())["identity"])
    keys = FeatureStore.open(workspace.store_folder, identity).keys()
    return {key.sha256 for key in keys}


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [(old.strip(), new.strip()) for old, new in pairs if old != new]


# --- from nothing to a prediction


def test_flow(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["--root", "pets", *arguments], catch_exceptions=False)
        print(f"$ pipeline {' '.join(arguments)}\n{result.output}")
        assert result.exit_code == 0
        return result

    def run_json(*arguments: str) -> Any:
        return json.loads(run(*arguments).stdout)

    # init
    said = run("init", "pets", "--source", "photos").stdout
    assert said.splitlines()[0] == (
        "made a workspace in pets: params.yaml, dvc.yaml, .gitignore, .dvcignore, .dvc/config"
    )
    assert said.splitlines()[1] == "next:  cd pets && dvc repro && pipeline scores"
    workspace = Workspace(Path("pets"))
    params = read_params(workspace.params_file)
    assert (params.dataset.source, params.dataset.limit) == ("../photos", None)
    assert params.versions == STAGE_VERSIONS
    assert "no_scm = true" in Path("pets/.dvc/config").read_text()
    write_params(workspace.params_file, SMALL_NETWORK)

    # prepare
    report = run_json("prepare", "--limit", "36", "--json")
    rows = usable(workspace)
    assert len(rows) == 36
    assert Counter(row.label for row in rows) == {"cat": 18, "dog": 18}
    counted = Counter((row.label, row.split) for row in rows)
    assert report["counts"] == {
        label: {split: counted[label, split] for split in ("train", "val", "test")}
        for label in ("cat", "dog")
    }
    assert (report["added"], report["quarantined"], report["changed"]) == (36, [], True)
    assert "nothing has changed" in run("prepare").stdout

    # extract
    report = run_json("extract", "--json")
    assert report.pop("seconds").keys() == {"decode", "forward", "write"}
    assert report == {"images": 36, "computed": 36, "reused": 0, "copies": 0, "failed": 0}
    assert stored_hashes(workspace) == {row.sha256 for row in rows}
    assert json.loads(workspace.index_file.read_bytes())["rows"] == 36
    assert run("extract").stdout == "nothing to extract: the store holds all 36 images\n"

    # train
    report = run_json("train", "logreg", "--json")
    model = json.loads((workspace.models_folder / "logreg" / "model.json").read_bytes())
    in_training = sum(row.split == "train" for row in rows)
    assert (report["rows"], report["classes"], report["folder"]) == (in_training, 2, "pets/models/logreg")
    assert (model["rows"], model["classes"], model["features"]) == (in_training, ["cat", "dog"], 25088)
    report = run_json("train", "logreg", "--set", "C=2.5", "--name", "weaker", "--json")
    model = json.loads((workspace.models_folder / "weaker" / "model.json").read_bytes())
    assert (report["name"], model["params"]["C"]) == ("weaker", 2.5)

    # evaluate
    metrics = run_json("evaluate", "logreg", "--json")
    assert metrics == json.loads(workspace.metrics_file("logreg", "val").read_bytes())
    with workspace.confusion_file("logreg", "val").open() as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    validation = [row for row in rows if row.split == "val"]
    assert [actual for actual, _ in pairs] == [row.label for row in validation]
    assert metrics["n"] == len(validation) == sum(map(sum, metrics["confusion"]["matrix"]))
    right = sum(actual == predicted for actual, predicted in pairs)
    assert metrics["accuracy"] == round(right / len(pairs), 6)
    assert run("evaluate", "logreg", "--split", "test").stdout.startswith("logreg on 6 images of test: ")

    # scores
    found = run_json("scores", "--json")
    assert [(score["head"], score["split"]) for score in found] == [("logreg", "val"), ("logreg", "test")]
    assert found[0].pop("current")
    assert not found[0].pop("out_of_fold")
    assert found[0] == {key: metrics[key] for key in found[0]}
    assert "pipeline predict logreg IMAGE" in run("scores").stdout

    # predict
    images = [f"photos/{row.path}" for row in validation]
    predictions = run_json("predict", "logreg", *images, "--format", "json")
    assert [prediction["path"] for prediction in predictions] == images
    assert [prediction["label"] for prediction in predictions] == [predicted for _, predicted in pairs]
    for prediction in predictions:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert max(prediction["probabilities"], key=prediction["probabilities"].get) == prediction["label"]

    # summary
    assert "50,178" in run("summary").stdout


def test_init__in_the_current_folder_and_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["init", "."])
    assert result.stdout.splitlines()[1] == "next:  dvc repro && pipeline scores"
    result = CliRunner().invoke(cli, ["init", "my pets"])
    assert result.stdout.splitlines()[1] == "next:  cd 'my pets' && dvc repro && pipeline scores"


def test_scores__none_yet(run: Run) -> None:
    assert run("scores").stdout.startswith("no scores yet: run `dvc repro`")
    assert json.loads(run("scores", "--json").stdout) == []


# --- choices on the command line, kept in params.yaml


def test_prepare__choices_are_kept_with_all_comments(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    write_images(tmp_path / "more", {"ant": 4, "bee": 4, "fly": 4})
    before = workspace.params_file.read_text()
    run("prepare", "--source", str(tmp_path / "more"), "--limit", "9")
    after = workspace.params_file.read_text()
    assert changed_lines(before, after) == [
        (f"source: {tmp_path / 'photos'}", f"source: {tmp_path / 'more'}"),
        ("limit: null", "limit: 9"),
    ]
    assert {row.label for row in usable(workspace)} == {"ant", "bee", "fly"}
    assert len(usable(workspace)) == 9

    run("prepare", "--limit", "all")
    assert changed_lines(after, workspace.params_file.read_text()) == [("limit: 9", "limit: null")]
    assert len(usable(workspace)) == 12


def test_prepare__relative_source_starts_at_the_current_folder(
    run: Run, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("prepare", "--source", "../photos")
    assert read_params(workspace.params_file).dataset.source == "../photos"
    monkeypatch.chdir(tmp_path)
    run("prepare", "--source", "photos")
    assert read_params(workspace.params_file).dataset.source == "../photos"
    assert len(usable(workspace)) == 40


@pytest.mark.parametrize("arguments", [["--source", "nowhere"], ["--limit", "3"], ["--source", ""]])
def test_prepare__choices_are_taken_back_when_it_fails(
    run: Run, workspace: Workspace, arguments: list[str]
) -> None:
    run("prepare")
    before = workspace.params_file.read_bytes(), workspace.manifest_file.read_bytes()
    run("prepare", *arguments, code=1)
    assert (workspace.params_file.read_bytes(), workspace.manifest_file.read_bytes()) == before


def test_prepare__says_what_it_left_out(run: Run, workspace: Workspace, source: Path) -> None:
    (source / "cat" / "broken\x1b[2J.jpg").write_text("no image")
    shutil.copyfile(source / "cat" / "cat-000.png", source / "dog" / "same.png")
    shutil.copyfile(source / "dog" / "dog-000.png", source / "dog" / "copy.png")
    (source / "dog" / "notes.csv").write_text("x")
    said = run("prepare").stdout
    assert "1 quarantined: 1 unsupported_format; see status and reason in data/manifest.csv" in said
    assert "2 left out because the same image stands under two labels (first: cat/cat-000.png)" in said
    assert "1 exact copy of other images" in said
    assert "1 other files ignored" in said
    report = json.loads(run("prepare", "--json").stdout)
    assert [row["path"] for row in report["quarantined"]] == ["cat/broken\x1b[2J.jpg"]
    assert [row["path"] for row in report["conflicts"]] == ["cat/cat-000.png", "dog/same.png"]
    assert (report["duplicates"], report["ignored"], report["changed"]) == (1, 1, False)


# --- a workspace that has everything


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
