"""An audit from end to end, and the files that come of it."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.corrections import Correction, Corrections, write_corrections
from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import MissingRows, PipelineError
from pipeline.results.audit.audit import audit
from pipeline.workspace import Workspace
from tests.results.audits import compressed, image, mirrored, pets, workspace_of
from tests.results.test_audit_appearance import photograph

pytest.importorskip("cleanlab", reason="the extra `audit` is not installed")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """150 pets; with a wrong label, a mirrored and a compressed copy, an exact one, and something else.

    Only the four cats 00 to 03 are there as files; of these, 01 is dark.
    """
    rows, features = pets()
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in range(4):
        file = tmp_path / "photos" / "cat" / f"{number:02}.jpg"
        picture = photograph(number)
        (picture.point(lambda level: level // 8) if number == 1 else picture).save(file)
        rows[number] = replace(rows[number], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    rows[4] = replace(rows[4], label="dog")
    rows += [
        image("cat/mirrored.jpg", "cat", "test"),
        image("dog/compressed.jpg", "dog", "train"),
        replace(rows[60], path="dog/exact.jpg"),
        image("owl/else.jpg", "owl", "train", width=40),
    ]
    other = np.zeros((1, 25088), np.float16)
    other[0, 9000:10000] = np.random.default_rng(4).exponential(20, 1000)
    X = np.concatenate(
        [features, mirrored(features[5:6]), compressed(features[55:56]), features[60:61], other]
    )
    order = sorted(range(len(rows)), key=lambda place: rows[place].path)
    return workspace_of(tmp_path / "workspace", [rows[place] for place in order], X[order])


def test_audit(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit(workspace)
    assert found.images == 154
    assert found.labels is not None
    assert [(issue.path, issue.label, issue.suggested) for issue in found.labels.issues] == [
        ("cat/04.jpg", "dog", "cat")
    ]
    assert [copies.paths for copies in found.exact] == [("dog/10.jpg", "dog/exact.jpg")]
    assert [(pair.paths, pair.leak) for pair in found.near] == [
        (("cat/05.jpg", "cat/mirrored.jpg"), True),
        (("dog/05.jpg", "dog/compressed.jpg"), False),
    ]
    assert found.leaks == 1
    assert [oddity.path for oddity in found.outliers] == ["owl/else.jpg"]
    assert [(oddity.path, oddity.value) for oddity in found.tiny] == [("owl/else.jpg", 40)]
    assert [oddity.path for oddity in found.dark] == ["cat/01.jpg"]
    assert len(found.unread) == 149
    assert (
        "warning: 149 images could not be looked at for light and blur, such as cat/04.jpg: gone, or changed "
        "since `pipeline prepare`."
    ) in capsys.readouterr().err.splitlines()


def test_audit__files(workspace: Workspace) -> None:
    found = audit(workspace)
    values: dict[str, Any] = json.loads(workspace.audit_file.read_text())
    assert values == json.loads(json.dumps(found.as_dict()))
    assert list(values)[:2] == ["images", "leaks"]
    assert values["near"][0] == {
        "paths": ["cat/05.jpg", "cat/mirrored.jpg"],
        "splits": ["train", "test"],
        "similarity": found.near[0].similarity,
        "leak": True,
    }
    with workspace.audit_fixes_file.open(newline="") as file:
        fixes = {line["path"]: line["action"] for line in csv.DictReader(file)}
    assert fixes == {"cat/05.jpg": "exclude", "cat/04.jpg": "", "owl/else.jpg": "", "cat/01.jpg": ""}


def test_audit__says_the_same_again(workspace: Workspace) -> None:
    audit(workspace, include_test=True)
    files = (workspace.audit_file, workspace.audit_fixes_file)
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    audit(workspace, include_test=True)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


def test_audit__changes_nothing_of_the_data(workspace: Workspace) -> None:
    files = [path for path in workspace.root.parent.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in files}
    audit(workspace)
    assert {path: path.read_bytes() for path in files} == before
    assert not workspace.corrections_file.exists()


def test_audit__without_cleanlab(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before any work, and with labels left out it works."""
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(PipelineError, match="cleanlab"):
        audit(workspace)
    assert not workspace.audit_file.exists()
    found = audit(workspace, skip_labels=True)
    assert found.labels is None
    assert (len(found.near), len(found.outliers)) == (2, 1)
    assert json.loads(workspace.audit_file.read_text())["labels"] is None


def test_audit__needs_features_of_all_images(workspace: Workspace) -> None:
    workspace.index_file.unlink()
    with pytest.raises(MissingRows, match="pipeline extract"):
        audit(workspace)


def test_audit__says_that_corrections_are_not_in_the_manifest_yet(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: dict[str, ImageRow] = {row.path: row for row in read_manifest(workspace.manifest_file).rows}
    made = [
        Correction("a", rows["cat/04.jpg"].sha256, "relabel", "cat"),
        Correction("b", rows["cat/10.jpg"].sha256, "relabel", "cat"),  # it is one
        Correction("c", rows["dog/10.jpg"].sha256, "exclude", ""),  # and its exact copy
    ]
    write_corrections(workspace.corrections_file, Corrections({change.sha256: change for change in made}))
    audit(workspace, skip_labels=True)
    assert (
        f"warning: {workspace.corrections_file}: 3 images of the manifest not corrected yet. `pipeline "
        f"prepare`, or `dvc repro`, takes the corrections into the manifest."
    ) in capsys.readouterr().err.splitlines()
