"""A workspace whose names want to be code, and its report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import cli
from pipeline.edit_params import write_params
from pipeline.scaffold import create_workspace
from tests.conftest import SMALL_NETWORK

SCRIPT = "<script>alert(1)</script>"
CLASSES = ("cat", SCRIPT)

HOSTILE = (
    "quote\"'><img src=x onerror=alert(2)>.png",
    "line\nbreak.png",
    "bidi\u202egnp.png",
    "{{ 7 * 7 }}.png",
)


@pytest.fixture(scope="session")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace of 44 images, whose files and classes have names that want to be code."""
    folder = tmp_path_factory.getbasetemp() / "hostile"
    if not folder.exists():  # files that import this fixture share what it made
        _finish(tmp_path_factory.mktemp("unfinished")).rename(folder)
    return folder


def _finish(folder: Path) -> Path:
    """Run everything once in `folder`, which can be moved."""
    photos = folder / "photos"
    photos.mkdir()
    names = [f"{number:02}.png" for number in range(40)] + list(HOSTILE)
    with (photos / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for number, name in enumerate(names):
            pixels = np.random.default_rng(number).normal(90 + 70 * (number % 2), 25, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(photos / name)
            split = ("train", "train", "train", "train", "val", "test")[number % 12 // 2]
            table.writerow((name, CLASSES[number % 2], "train" if name in HOSTILE else split))
        (photos / "broken<b>.png").write_bytes(b"no image")
        table.writerow(("broken<b>.png", SCRIPT, "train"))
    root = folder / "workspace"
    create_workspace(root)
    write_params(
        root / "params.yaml", {**SMALL_NETWORK, "dataset.source": "../photos", "dataset.limit": None}
    )
    for step in (["prepare"], ["extract"], ["train", "logreg"], ["evaluate", "logreg"]):
        result = CliRunner().invoke(cli, ["--root", str(root), *step], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def page(hostile_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that workspace."""
    output = tmp_path_factory.getbasetemp() / "hostile.html"
    if not output.exists():
        arguments = ["--root", str(hostile_folder / "workspace"), "report", "--output", str(output)]
        assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    return output
