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
from pipeline.edit_params import write_params
from pipeline.params import STAGE_VERSIONS, read_params
from pipeline.workspace import Workspace
from tests.commands.stored import stored_hashes, usable
from tests.conftest import SMALL_NETWORK, write_images

Run = Callable[..., Result]


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
