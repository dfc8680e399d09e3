"""`pipeline export`: what it says, and which options go together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.workspace import Workspace

Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


def test_export__says_what_was_written_and_how_it_compares(run: Run, tmp_path: Path) -> None:
    state, features = tmp_path / "pets.pth", tmp_path / "pets.h5"
    said = run("export", "linear-svm", "--state-dict", str(state), "--features", str(features)).stdout
    first, second, third = said.splitlines()
    assert first == (
        f"{state} (59.1 MB): images, float32 (n, 3, 32, 32), normalised -> scores, float32 (n, 2)"
    )
    assert re.fullmatch(
        r"  as the pipeline on 6 images of val: same labels, scores within \d\.\de-\d\d "
        r"\(\d\.\de-\d\d to those of the stored features\)",
        second,
    )
    assert third.startswith(
        f"{features} (2.0 MB): features, float16 (40, 25088), labels, paths, split, classes"
    )
    assert third.endswith("(cat, dog)")


def test_export__json(run: Run, tmp_path: Path) -> None:
    state, features = str(tmp_path / "pets.safetensors"), str(tmp_path / "pets.h5")
    said = run("export", "logreg", "--state-dict", state, "--features", features, "--split", "val", "--json")
    classifier, matrix = json.loads(said.stdout)
    assert classifier["path"] == state
    assert classifier["parity"]["images"] == 6
    assert 0 <= classifier["parity"]["difference"] <= 1e-4
    assert (matrix["path"], matrix["rows"], matrix["classes"]) == (features, 6, ["cat", "dog"])


def test_export__features_of_some_splits_need_no_model(run: Run, tmp_path: Path) -> None:
    file = str(tmp_path / "some.h5")
    said = run("export", "--features", file, "--split", "val", "--split", "test").stdout
    assert "float16 (12, 25088)" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["logreg"], "Nothing to write: give --onnx, --state-dict, --torch-export or --features."),
        (["--onnx", "a.onnx"], "Missing argument 'MODEL'"),
        (["logreg", "--features", "a.h5"], "--features holds no classifier: leave MODEL out"),
        (
            ["logreg", "--torch-export", "a.pt2", "--with-preprocessing"],
            "--with-preprocessing belongs to --onnx.",
        ),
        (["logreg", "--torch-export", "a.pt2", "--split", "val"], "--split belongs to --features."),
        (["logreg", "--state-dict", "a.bin"], "expected a file that ends in .safetensors, .pth, .pt"),
        (["logreg", "--onnx", "a.h5"], "Invalid value for --onnx: expected a file that ends in .onnx"),
        (
            ["logreg", "--torch-export", "a.pt"],
            "Invalid value for --torch-export: expected a file that ends in .pt2",
        ),
        (["--features", "a.csv"], "Invalid value for --features: expected a file that ends in .h5, .hdf5"),
        (["logreg", "--onnx", "/dev/null"], "/dev/null: expected a regular file, or a new one"),
    ],
)
def test_export__options_that_do_not_go_together(run: Run, arguments: list[str], told: str) -> None:
    assert told in run("export", *arguments, code=2).stderr


def test_export__what_cannot_be_is_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    error = fails("export", "knn", "--onnx", str(tmp_path / "pets.onnx"))
    assert "no such model" in error
    assert not (tmp_path / "pets.onnx").exists()
