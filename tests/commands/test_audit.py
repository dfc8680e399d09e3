from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.commands.audit import _told
from pipeline.dataset.manifest import read_manifest
from pipeline.results.audit.findings import (
    Audit,
    ExactCopies,
    LabelFindings,
    LabelIssue,
    LabelsOfTest,
    NearPair,
    Oddity,
)
from pipeline.workspace import Workspace
from tests.commands.conftest import the_error, tree

Run = Callable[..., Result]

NOTHING = Audit(3, None, (), (), (), (), (), (), ())
FOUND = Audit(
    images=9,
    labels=LabelFindings(
        rows=7,
        not_compared=0,
        reviewed=2,
        accuracy=0.5,
        estimated=3,
        issues=(
            LabelIssue("cat/\x1b[2J.jpg", "train", "cat", "dog", 0.01, confident=True),
            LabelIssue("cat/2.jpg", "val", "cat", "dog", 0.44, confident=False),
        ),
        test=LabelsOfTest(2, 0.5, 1.0),
    ),
    exact=(ExactCopies(("a.jpg", "b.jpg"), ("train", "test")),),
    near=(NearPair(("c.jpg", "d.jpg"), ("val", "val"), 0.87654),),
    outliers=(Oddity("e.jpg", "test", 7.25),),
    tiny=(),
    dark=(),
    blurred=(),
    unread=(),
)


@pytest.fixture
def invoke(finished: Workspace) -> Run:
    """Run `pipeline` on a finished workspace of 40 images."""

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--root", str(finished.root), *arguments])
        print(f"$ pipeline {' '.join(arguments)}\n{result.output}")
        assert result.exit_code == code
        return result

    return run


def test_told__leaks_first_and_names_escaped() -> None:
    assert _told(FOUND, 1).splitlines() == [
        "9 images audited",
        "",
        "LEAK: 1 duplicate across splits. Scores look better than they are, until each is in one split only.",
        "",
        "exact copies: 2 files of 1 image",
        "images        splits       leak",
        "------------  -----------  ----",
        "a.jpg, b.jpg  train, test  LEAK",
        "",
        "near duplicates: 1 pair",
        "image  like   splits    leak  similarity",
        "-----  -----  --------  ----  ----------",
        "c.jpg  d.jpg  val, val             0.877",
        "",
        "labels: 2 doubted, 1 of them by confident learning (*); of 7 images of train and val, about 3 are "
        "wrong; 2 corrected or kept before",
        "image            split  label  rather  *  quality",
        "---------------  -----  -----  ------  -  -------",
        "cat/\\x1b[2J.jpg  train  cat    dog     *    0.010",
        "… and 1 more: --top, or reports/audit.json",
        "",
        "test labels were looked at: a classifier of train and val is right on 0.5000 of 2 images as they "
        "are labelled, and would be on 1.0000 with those that are doubted taken as suggested. Report both.",
        "",
        "images like no other: 1",
        "image  split  deviations from the rest",
        "-----  -----  ------------------------",
        "e.jpg  test                       7.25",
        "",
        "dark images: none",
        "",
        "blurred images: none",
        "",
        "tiny images: none",
    ]


def test_told__nothing() -> None:
    assert "LEAK" not in _told(NOTHING, 5)
    assert "duplicates: none" in _told(NOTHING, 5).splitlines()
    assert "labels" not in _told(NOTHING, 5)


def test_audit__and_what_it_proposes(invoke: Run, finished: Workspace) -> None:
    said = invoke("audit", "--skip-labels")
    assert said.stdout.startswith("40 images audited\n")
    assert f"fixes are proposed in {finished.audit_fixes_file}" in said.stderr
    printed = invoke("audit", "--skip-labels", "--json").stdout
    assert printed == finished.audit_file.read_text()
    assert json.loads(printed)["images"] == 40


def test_audit__fix__prepare__nothing_is_extracted(invoke: Run, finished: Workspace) -> None:
    pytest.importorskip("cleanlab", reason="the extra `audit` is not installed")
    shards = sorted(path.name for path in finished.store_folder.glob("*.h5"))
    invoke("audit")
    fixes = finished.root / "fixes.csv"
    fixes.write_text("path,label,action\ncat/cat-001.png,dog,relabel\ndog/dog-002.png,,exclude\n")
    said = invoke("audit", "--apply", str(fixes)).stdout
    assert said == (
        f"1 relabelled, 1 excluded, 0 kept, 0 restored, 0 undecided -> {finished.corrections_file}, 2 "
        f"corrections in all. `dvc repro`, or `pipeline prepare`, takes them in.\n"
    )
    invoke("prepare")
    assert "nothing to extract" in invoke("extract").output
    invoke("train", "logreg")
    invoke("evaluate", "logreg")
    assert sorted(path.name for path in finished.store_folder.glob("*.h5")) == shards
    row = {row.path: row for row in read_manifest(finished.manifest_file).rows}
    assert (row["cat/cat-001.png"].label, row["dog/dog-002.png"].status) == ("dog", "excluded")
    applied = json.loads(invoke("audit", "--apply", str(fixes), "--json").stdout)
    assert (applied["corrections"], applied["changed"]) == (2, False)
    assert "does not say already" in invoke("audit", "--apply", str(fixes)).stdout


def test_audit__apply__a_fault_is_one_line_and_changes_nothing(invoke: Run, finished: Workspace) -> None:
    fixes = finished.root / "fixes.csv"
    fixes.write_text("path,label\ncat/cat-001.png,dogg\n")
    before = tree(finished.root)
    assert "Did you mean 'dog'?" in the_error(invoke("audit", "--apply", str(fixes), code=1))
    assert tree(finished.root) == before
    assert "1 relabelled" in invoke("audit", "--apply", str(fixes), "--new-label", "dogg").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--new-label", "owl"], "--new-label goes with --apply"),
        (["--apply", "x.csv", "--include-test"], "--apply audits nothing"),
        (["--apply", "x.csv", "--skip-labels"], "--apply audits nothing"),
        (["--top", "0"], "0 is not in the range"),
        (["--apply", "."], "is a directory"),
    ],
)
def test_audit__usage(run: Run, arguments: list[str], words: str) -> None:
    result = run("audit", *arguments, code=2)
    assert words in result.stderr
    assert result.stdout == ""


def test_audit__before_prepare(fails: Callable[..., str]) -> None:
    assert "pipeline prepare" in fails("audit", "--skip-labels")


def test_audit__apply__before_prepare(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "fixes.csv").write_text("path,label\na,b\n")
    assert "pipeline prepare" in fails("audit", "--apply", str(tmp_path / "fixes.csv"))
