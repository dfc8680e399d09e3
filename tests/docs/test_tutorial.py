"""``docs/tutorial.py``: runs from the first cell to the last, as a notebook does, with other parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import load_features
from pipeline.dataset.manifest import read_manifest
from pipeline.heads import model_folder
from pipeline.workspace import Workspace
from tests.conftest import SMALL_NETWORK
from tests.docs.pages import DOCS

SCRIPT = DOCS / "tutorial.py"
PARAMETERS = '# %% tags=["parameters"]\n'
LIMIT = 60


def cells(source: str) -> list[str]:
    """Cut a script where its cells begin."""
    return re.split(r"^(?=# %%)", source, flags=re.MULTILINE)


def with_parameters(source: str, chosen: dict[str, Any]) -> str:
    """Put a cell behind that of the parameters, as papermill does."""
    parts = cells(source)
    (place,) = (number for number, cell in enumerate(parts) if cell.startswith(PARAMETERS))
    defaults = set(re.findall(r"^([A-Z]+)", parts[place], re.MULTILINE))
    assert set(chosen) <= defaults
    parts.insert(place + 1, "".join(f"{name} = {value!r}\n" for name, value in chosen.items()))
    return "".join(parts)


def test_tutorial_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tutorial"
    extract = {key.removeprefix("extract."): value for key, value in SMALL_NETWORK.items()}
    chosen = {"WORKSPACE": str(root), "LIMIT": LIMIT, "EXTRACT": extract}
    source = with_parameters(SCRIPT.read_text("utf-8"), chosen)
    exec(compile(source, SCRIPT, "exec"), {"__name__": "__main__"})  # noqa: S102
    tutorial = Workspace(root)
    said = capsys.readouterr().out
    ran = re.findall(r"^\$ pipeline (\w+)", said, re.MULTILINE)
    assert ran == ["init", "prepare", "extract", "summary", "train", "evaluate", "show", "predict"]

    X, y, _ = load_features(tutorial.root, "train")
    assert f"X {X.shape} float16, {(X == 0).mean():.0%} zeros; y ({len(y)},), 10 classes" in said
    assert re.search(r"^logistic regression: accuracy [01]\.\d{4} on val$", said, re.MULTILINE)
    assert "Trainable params: 250,890" in said  # 25,088 features and a bias, for each of ten digits
    assert f"trained linear (linear) on {len(y)} images of 10 classes in " in said
    assert tutorial.metrics_file("linear", "val").is_file()
    assert "contact-sheet.png: the first 4 of " in said

    first = read_manifest(tutorial.manifest_file).of_split("val")[0]
    predicted = model_folder.load(tutorial.model_folder("linear")).predict(
        np.asarray(load_features(tutorial.root, "val").X[:1])
    )
    line = rf"^\S+/{first.path} +{predicted.labels[0]} +{predicted.labels[0]} 0\.\d+, "
    assert re.search(line, said, re.MULTILINE)
    assert said.endswith(f"its label: {first.label}\n")
    assert len(read_manifest(tutorial.manifest_file).usable) == LIMIT


def test_cells__text_is_marked_as_text() -> None:
    """So that a notebook shows it as such, and runs the rest."""
    first, *rest = cells(SCRIPT.read_text("utf-8"))
    assert first == ""
    for cell in rest:
        head, _, body = cell.partition("\n")
        is_text = body.lstrip().startswith(('"""', "# "))
        assert (head == "# %% [markdown]") == is_text, head
    assert re.search(r"`LIMIT = \d+`", rest[0])
