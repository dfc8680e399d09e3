"""``docs/extending.md``: its worked examples work."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import architectures
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sources import source_root
from pipeline.dataset.sources.layouts import list_images
from pipeline.edit_params import write_params
from pipeline.features.torch_backbone import load_network
from pipeline.features.weights import resolve_weights
from pipeline.heads import model_folder, registry
from pipeline.heads.linear_layer import layer_of
from pipeline.heads.train import train
from pipeline.params import parse_params
from pipeline.results.export import forms
from pipeline.results.export.check import Sample
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.docs.pages import DOCS, blocks

__all__ = ["finished", "finished_folder"]  # fixtures

PAGE = DOCS / "extending.md"
PRESET, FAMILY, SOURCE, LAYER, ASK = blocks(PAGE, "python")
(HEADS,) = blocks(PAGE, "yaml")


def module_of(source: str, monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Make a module of the page's code, as if it had been put into its file."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, f"{PAGE}: {name}", "exec"), module.__dict__)  # noqa: S102
    return module


def test_head__that_needs_no_code(finished: Workspace) -> None:
    heads = parse_params(HEADS.encode()).heads
    (name,) = heads
    write_params(finished.params_file, {f"heads.{name}": asdict(heads[name])})
    report = train(finished, name, overrides={"n_estimators": 10})
    assert report.estimator == "sklearn.ensemble.ExtraTreesClassifier"
    assert model_folder.load(report.folder).head.n_features_in_ == 512


def test_head__with_a_short_name(finished: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    presets: dict[str, registry.Preset] = eval("{" + PRESET + "}", vars(registry))  # noqa: S307
    (name,) = presets
    assert name not in registry.PRESETS
    monkeypatch.setitem(registry.PRESETS, name, presets[name])

    report = train(finished, name, overrides={"n_estimators": 10, "n_jobs": 1})

    assert (report.estimator, report.rows) == (name, 28)
    model = model_folder.load(report.folder)  # without trust
    assert type(model.head).__name__ == "ExtraTreesClassifier"
    assert report.metrics["n"] == 6
    assert len(registry.grid_of(name, 100.0)) == 3


def test_backbone__entry_of_the_table() -> None:
    entry: dict[str, Any] = eval(FAMILY, vars(architectures))  # noqa: S307
    assert entry == {"resnet18": architectures.ARCHITECTURES["resnet18"]}


def test_source__fills_a_folder_that_can_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = module_of(SOURCE, monkeypatch, "pipeline.dataset.sources.shapes")
    shapes.write_shapes(tmp_path / "shapes")
    candidates = list_images(tmp_path / "shapes").candidates
    assert [candidate.label for candidate in candidates] == ["disc"] * 100 + ["square"] * 100
    assert len({candidate.file.read_bytes() for candidate in candidates}) > 190

    with Image.open(tmp_path / "shapes" / "square" / "000.png") as image:
        rows, columns = np.nonzero(np.asarray(image))
    assert np.ptp(rows) == np.ptp(columns)
    assert len(rows) == (np.ptp(rows) + 1) ** 2
    with Image.open(tmp_path / "shapes" / "disc" / "000.png") as image:
        rows, columns = np.nonzero(np.asarray(image))
    assert len(rows) == pytest.approx(np.pi * (np.ptp(rows) / 2) ** 2, rel=0.1)

    before = {candidate.file: candidate.file.stat().st_mtime_ns for candidate in candidates}
    shapes.write_shapes(tmp_path / "shapes")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    shapes.write_shapes(tmp_path / "again")
    assert [candidate.file.read_bytes() for candidate in list_images(tmp_path / "again").candidates] == [
        candidate.file.read_bytes() for candidate in candidates
    ]


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
def test_format__says_what_the_pipeline_says(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    layer_file = module_of(LAYER, monkeypatch, "pipeline.results.export.layer_file")
    names = {**vars(forms), "layer_file": layer_file}
    exec(compile(ASK, PAGE, "exec"), names)  # noqa: S102

    model = model_folder.load(finished.model_folder(head))
    weights = resolve_weights("random", finished.root)
    root = source_root("../photos", finished)
    sample = Sample.of(model, weights, read_manifest(finished.manifest_file), root, finished.store_folder)
    file = tmp_path / "layer.npz"
    layer_file.write_layer(file, model)
    answers = names["_ask_layer"](
        file, load_network(weights), forms._normalised(sample, model), layer_of(model).link
    )
    assert sample.compare(answers, file.name).images == 6
    with np.load(file) as arrays:
        assert arrays["classes"].tolist() == ["cat", "dog"]
        assert arrays["weight"].shape == (2, 25_088)
