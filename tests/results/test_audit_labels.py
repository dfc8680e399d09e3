from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.corrections import Correction, Corrections
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import PipelineError
from pipeline.heads.matrix import LabelledFeatures
from pipeline.params import SPLITS
from pipeline.results.audit.findings import LabelFindings
from pipeline.results.audit.labels import label_findings, require_cleanlab
from pipeline.results.audit.predictions import POOLED, Predicted, predicted
from tests.results.audits import LABELS, pets, workspace_of

pytest.importorskip("cleanlab", reason="the extra `audit` is not installed")

ROWS, FEATURES = pets()
Findings = Callable[..., LabelFindings]


def flipped(share: float = 0.05, seed: int = 0) -> dict[str, str]:
    """Choose images, and another label for each."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(ROWS))[: round(share * len(ROWS))]
    return {
        ROWS[place].path: str(random.choice([label for label in LABELS if label != ROWS[place].label]))
        for place in chosen.tolist()
    }


def rows_with(labels: Mapping[str, str]) -> list[ImageRow]:
    return [replace(row, label=labels.get(row.path, row.label)) for row in ROWS]


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    def find(
        rows: list[ImageRow], *, include_test: bool = False, corrections: Corrections | None = None
    ) -> LabelFindings:
        features = LabelledFeatures.open(workspace_of(tmp_path / "workspace", rows, FEATURES))
        pooled = features.matrix(*SPLITS, derivation=POOLED)
        factors = tmp_path / "factors"
        return label_findings(
            features, pooled, corrections or Corrections(), factors, include_test=include_test
        )

    return find


@pytest.mark.parametrize("seed", range(3))
def test_label_findings__wrong_labels_are_found_and_few_others(findings: Findings, seed: int) -> None:
    flips = flipped(seed=seed)
    of_test = {row.path for row in ROWS if row.split == "test"}
    found = findings(rows_with(flips))
    listed = {issue.path: issue for issue in found.issues}
    wrong = flips.keys() - of_test
    assert len(wrong & listed.keys()) >= 0.9 * len(wrong)
    assert len(wrong & listed.keys()) >= 0.65 * len(listed)
    truth = {row.path: row.label for row in ROWS}
    assert all(listed[path].suggested == truth[path] for path in wrong & listed.keys())
    assert all(listed[path].label == flips[path] for path in wrong & listed.keys())
    assert {issue.path for issue in found.issues if issue.confident} <= wrong
    qualities = [issue.quality for issue in found.issues]
    assert qualities == sorted(qualities)
    assert 0 <= qualities[0] <= qualities[-1] < 0.5
    assert (found.rows, found.not_compared, found.reviewed) == (129, 0, 0)


def test_label_findings__right_labels_are_not_doubted(findings: Findings) -> None:
    found = findings(list(ROWS))
    assert found.issues == ()
    assert (found.accuracy, found.estimated) == (1, 0)


def test_label_findings__labels_of_test_are_not_looked_at(findings: Findings) -> None:
    """Whatever the labels of test rows are, the findings are the same."""
    flips = flipped()
    first = findings(rows_with(flips))
    others = {row.path: "owl" for row in ROWS if row.split == "test"}
    assert findings(rows_with(flips | others)) == first
    assert first.test is None
    assert {issue.split for issue in first.issues} <= {"train", "val"}


def test_label_findings__labels_of_test_if_they_are_asked_for(findings: Findings) -> None:
    of_test = [row.path for row in ROWS if row.split == "test"]
    flips = {of_test[0]: "dog", of_test[8]: "owl", of_test[15]: "cat"}
    without = findings(rows_with(flips))
    found = findings(rows_with(flips), include_test=True)
    assert {issue.path for issue in found.issues if issue.split == "test"} == flips.keys()
    assert found.test is not None
    assert found.test.rows == 21
    assert found.test.accuracy_as_labelled == pytest.approx(18 / 21, abs=1e-4)
    assert found.test.accuracy_as_suggested == 1
    # they teach nothing: what is said of the other splits stays as it is
    assert replace(found, issues=(), test=None) == replace(without, issues=())


def test_label_findings__what_a_correction_says_is_not_doubted_again(findings: Findings) -> None:
    flips = dict(list(flipped(0.1).items())[:6])
    listed = [issue.path for issue in findings(rows_with(flips)).issues]
    row = next(row for row in rows_with(flips) if row.path == listed[0])
    kept = Correction("elsewhere.jpg", row.sha256, "relabel", row.label)
    other = Correction("elsewhere.jpg", row.sha256, "relabel", "another")
    found = findings(rows_with(flips), corrections=Corrections({row.sha256: kept}))
    assert [issue.path for issue in found.issues] == listed[1:]
    assert found.reviewed == 1
    # one that the manifest does not have yet says nothing about the label that it has
    found = findings(rows_with(flips), corrections=Corrections({row.sha256: other}))
    assert [issue.path for issue in found.issues] == listed


def test_label_findings__an_only_image_of_its_class_cannot_be_compared(findings: Findings) -> None:
    lonely = next(row.path for row in ROWS if row.split == "train")
    found = findings(rows_with({lonely: "unicorn"}))
    assert (found.rows, found.not_compared) == (128, 1)
    assert lonely not in {issue.path for issue in found.issues}


def test_predicted__copies_are_held_out_together(tmp_path: Path) -> None:
    """A wrong label does not vouch for itself through a copy."""
    rows = [*ROWS, *(replace(row, path=f"copy/{row.path}") for row in ROWS[:30])]
    wrong = {ROWS[3].path: "dog", f"copy/{ROWS[3].path}": "dog"}
    rows = sorted(
        (replace(row, label=wrong.get(row.path, row.label)) for row in rows), key=lambda row: row.path
    )
    by_path = {row.path: features for row, features in zip(ROWS, FEATURES, strict=True)}
    features = np.stack([by_path[row.path.removeprefix("copy/")] for row in rows])
    opened = LabelledFeatures.open(workspace_of(tmp_path, rows, features))
    pooled = opened.matrix(*SPLITS, derivation=POOLED)
    learned, test = predicted(opened, pooled, tmp_path / "factors", include_test=False)
    assert test is None
    for place, image in enumerate(learned.images):
        if image.path in wrong:
            assert learned.probabilities[place].argmax() == 0


def test_predicted__the_view_that_labels_surprise_least(tmp_path: Path) -> None:
    """Where it matters where something is, pooled features tell nothing, and all of them are asked."""
    random = np.random.default_rng(2)
    noise = random.exponential(1, (len(ROWS), 512, 7, 7))
    for place, row in enumerate(ROWS):  # the same channels light up, in another corner for each class
        noise[place, :40, 2 * LABELS.index(row.label), 0] += 10
    X = noise.reshape(len(ROWS), -1).astype(np.float16)
    features = LabelledFeatures.open(workspace_of(tmp_path, ROWS, X))
    pooled = features.matrix(*SPLITS, derivation=POOLED)
    learned, _ = predicted(features, pooled, tmp_path / "factors", include_test=False)
    assert learned.accuracy == 1
    assert learned.log_loss < 0.2


def test_predicted__other_labels_need_no_other_factor(findings: Findings, tmp_path: Path) -> None:
    """After a correction nothing is read twice."""
    findings(list(ROWS))
    made = [(file.name, file.stat().st_ino) for file in (tmp_path / "factors").iterdir()]
    assert len(made) == 1
    findings(rows_with(flipped()))
    assert [(file.name, file.stat().st_ino) for file in (tmp_path / "factors").iterdir()] == made


def test_predicted__log_loss_and_accuracy() -> None:
    found = Predicted(ROWS[:2], np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert found.log_loss == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert found.accuracy == 0.5


def test_require_cleanlab__names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    require_cleanlab()
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(PipelineError, match=r"pip install 'feature-cache-pipeline\[audit\]'.*--skip-labels"):
        require_cleanlab()
