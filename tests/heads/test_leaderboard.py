from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import sem

from pipeline.heads.derived import Derivation
from pipeline.heads.leaderboard import Leaderboard, Line, standard_error
from pipeline.heads.registry import PRESETS, grid_of

OF = {"rows_sha256": "a"}


def line(estimator: str = "ridge", place: int = 0, **values: Any) -> Line:
    folds = values.pop("folds", (0.5, 0.7))
    defaults: dict[str, Any] = {
        "pooling": "none",
        "normalize": "none",
        "accuracy": sum(folds) / max(len(folds), 1),
    }
    return Line(estimator, {"alpha": 1.0}, place=place, fold_accuracy=folds, **defaults | values)


def board(*lines: Line) -> Leaderboard:
    found = Leaderboard(OF, rows=40, folds=2)
    found.add(lines)
    return found


def test_add__best_first_and_failed_last() -> None:
    lines = [line(place=place, accuracy=accuracy) for place, accuracy in enumerate((0.8, None, 0.9, 0.7))]
    assert [each.accuracy for each in board(*lines).lines] == [0.9, 0.8, 0.7, None]


def test_add__takes_the_place_of_what_was_there() -> None:
    found = board(line(accuracy=0.9), line("knn", accuracy=0.8))
    found.add([line(accuracy=0.7)])
    assert [(each.estimator, each.accuracy) for each in found.lines] == [("knn", 0.8), ("ridge", 0.7)]


def test_add__among_equals_fewer_columns_then_the_order_of_what_is_tried() -> None:
    lines = [
        line("sklearn.dummy.DummyClassifier", pooling="avg"),
        line("knn", place=1),
        line("logreg", place=2),
        line("logreg", place=1),
        line("logreg", normalize="l2"),
        line("knn", pooling="max"),
        line("knn", pooling="avg"),
    ]
    expected = [6, 5, 0, 3, 2, 4, 1]
    for order in (range(7), reversed(range(7))):
        assert board(*(lines[place] for place in order)).lines == [lines[place] for place in expected]


def test_best__none_if_all_failed() -> None:
    assert board().best is None
    assert board(line(accuracy=None, failed="so")).best is None
    assert board(line(accuracy=None, failed="so"), line("knn")).best == line("knn")


def test_standard_error__equals_scipy() -> None:
    folds = (0.91, 0.97, 0.94, 0.99, 0.9)
    assert standard_error(folds) == pytest.approx(sem(folds), abs=1e-6)


def test_nested__each_fold_counts_with_the_line_that_its_inner_folds_choose() -> None:
    found = board(
        line("logreg", folds=(1.0, 0.2), inner_accuracy=(0.1, 0.9)),
        line("ridge", folds=(0.6, 0.4), inner_accuracy=(0.8, 0.3)),
        line("knn", folds=(0.9, 0.9)),  # has none, and takes no part
    )
    assert found.nested == {"accuracy": 0.4, "standard_error": pytest.approx(0.2), "lines": 2}
    assert board(line("knn")).nested is None


def test_nested__ties_are_not_broken_by_the_outer_folds() -> None:
    # were the lines taken in the order of the leaderboard, the better in the outer folds would win each tie
    worse = line("logreg", folds=(0.1, 0.1), inner_accuracy=(0.5, 0.5))
    better = line("knn", folds=(0.9, 0.9), inner_accuracy=(0.5, 0.5))
    assert board(better, worse).nested == {"accuracy": 0.1, "standard_error": 0.0, "lines": 2}


@pytest.mark.parametrize("estimator", ["ridge", "knn", "forest"])
def test_has__all_places_of_the_grid(estimator: str) -> None:
    count = len(grid_of(estimator, 1.0))
    lines = [line(estimator, place, inner_accuracy=(0.5, 0.5)) for place in range(count)]
    assert board(*lines).has(estimator, Derivation(), nested=True)
    assert not board(*lines).has(estimator, Derivation("avg"), nested=False)
    assert not board(*lines[1:]).has(estimator, Derivation(), nested=False)
    failed = line(estimator, 0, accuracy=None, failed="memory")
    assert not board(*lines[1:], failed).has(estimator, Derivation(), nested=False)
    without = [line(estimator, place) for place in range(count)]
    assert board(*without).has(estimator, Derivation(), nested=False)
    assert not board(*without).has(estimator, Derivation(), nested=True)


def test_file__there_and_back(tmp_path: Path) -> None:
    found = board(
        line(inner_accuracy=(0.5, 0.25), standard_error=0.1, fit_seconds=0.25, warnings=("slow",)),
        line("knn", accuracy=None, folds=(), failed="no neighbours"),
    )
    found.write(tmp_path / "reports" / "sweep.json")
    again = Leaderboard.read(tmp_path / "reports" / "sweep.json", OF, 40, 2)
    assert again == found
    stored = json.loads((tmp_path / "reports" / "sweep.json").read_bytes())
    assert stored["best"]["accuracy"] == 0.6
    assert "expect less" in stored["optimistic"]


def test_read__none_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Leaderboard.read(tmp_path / "sweep.json", OF, 40, 2).lines == []
    assert capsys.readouterr().err == ""


def test_read__of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board(line()).write(tmp_path / "sweep.json")
    assert Leaderboard.read(tmp_path / "sweep.json", {"rows_sha256": "b"}, 40, 2).lines == []
    assert "other images, labels, features or folds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"of": {"rows_sha256": "a"}}', '{"of": {"rows_sha256": "a"}, "lines": [{}]}', "\0"],
)
def test_read__not_a_leaderboard(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    assert Leaderboard.read(tmp_path / "sweep.json", OF, 40, 2).lines == []
    assert "not a leaderboard" in capsys.readouterr().err


def test_grid__begins_with_the_preset() -> None:
    norm = 1900.0
    for name, preset in PRESETS.items():
        grid = grid_of(name, norm)
        assert len({json.dumps(each) for each in grid}) == len(grid)
        for key, value in grid[0].items():
            if key in preset.scaled:
                assert value == pytest.approx(preset.scaled[key](norm), rel=1e-2)
            elif key in preset.params:
                assert value == preset.params[key]
    assert grid_of("sklearn.dummy.DummyClassifier", norm) == [{}]
    assert [each["C"] for each in grid_of("logreg", norm)] == pytest.approx(
        [500 / norm**2 * multiple for multiple in (1, 0.3, 3, 0.1, 10, 0.01, 100)], rel=1e-2
    )


def test_write__keeps_what_another_sweep_has_added_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    board(line("knn"), line("ridge", accuracy=0.1)).write(path)
    mine = board(line("ridge", accuracy=0.9))
    mine.write(path)
    assert [each.estimator for each in mine.lines] == ["ridge", "knn"]
    assert Leaderboard.read(path, OF, 40, 2) == mine
    other = Leaderboard({"rows_sha256": "b"}, rows=40, folds=2)
    other.write(path)
    assert other.lines == []
