"""The layer table, against the counts of the tutorial that this project comes from."""

from __future__ import annotations

import itertools
import re

import pytest

from pipeline.dataset.manifest import ImageRow, write_manifest
from pipeline.edit_params import write_params
from pipeline.results.summary import summary
from pipeline.workspace import Workspace

FROZEN = 14_714_688  # VGG16 without its classifier, in the tutorial's table


def counts(text: str) -> tuple[int, int, int]:
    """Total, trainable and frozen parameters."""
    found = dict(re.findall(r"(Total|Trainable|Non-trainable) params: ([\d,]+)", text))
    total, trainable, frozen = (
        int(found[key].replace(",", "")) for key in ("Total", "Trainable", "Non-trainable")
    )
    return total, trainable, frozen


@pytest.mark.parametrize(("classes", "trainable"), [(2, 50_178), (10, 250_890)])
def test_summary__parameters(workspace: Workspace, classes: int, trainable: int) -> None:
    assert trainable == 25_088 * classes + classes
    assert counts(summary(workspace, classes)) == (FROZEN + trainable, trainable, FROZEN)


def test_summary__layers(workspace: Workspace) -> None:
    text = summary(workspace, 2)
    layers = re.findall(r"─(\w+): ", text)
    assert [layers.count(kind) for kind in ("Conv2d", "MaxPool2d", "AdaptiveAvgPool2d", "Linear")] == [
        13, 5, 1, 1,
    ]  # fmt: skip
    convolutions = re.findall(r"Conv2d: 2-\d+ +\[1, (\d+), (\d+), \d+\] +\(([\d,]+)\) +False", text)
    # channels and sizes of configuration D, Simonyan & Zisserman, table 1
    assert [(int(channels), int(size)) for channels, size, _ in convolutions] == [
        (64, 224), (64, 224), (128, 112), (128, 112), (256, 56), (256, 56), (256, 56),
        (512, 28), (512, 28), (512, 28), (512, 14), (512, 14), (512, 14),
    ]  # fmt: skip
    assert sum(int(count.replace(",", "")) for *_, count in convolutions) == FROZEN
    (linear,) = re.findall(r"Linear: 1-3 +\[1, 2\] +50,178 +True", text)
    assert linear


def test_summary__classes_of_the_manifest(workspace: Workspace) -> None:
    assert "[1, 3]" in summary(workspace)  # the fixture's three classes
    rows = [
        ImageRow(f"{label}/{n}.png", label, "train", "", f"{label}{n}".rjust(64, "0"), 9, 8, 8, "ok", "")
        for label in "abcde"
        for n in range(2)
    ]
    write_manifest(workspace.manifest_file, rows)
    assert counts(summary(workspace))[1] == 25_088 * 5 + 5
    workspace.manifest_file.unlink()
    assert counts(summary(workspace))[1] == 50_178


@pytest.mark.parametrize(("size", "unit"), [(32, "M"), (224, "G")])
def test_summary__multiply_adds(workspace: Workspace, size: int, unit: str) -> None:
    write_params(workspace.params_file, {"extract.image_size": size})
    text = summary(workspace, 2)
    (found,) = re.findall(r"Total mult-adds (.*)", text)
    # each convolution's weights and bias are used once a position
    positions = [size // step for step in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16)]
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    parameters = [(9 * a + 1) * b for a, b in itertools.pairwise(channels)]
    count = 50_178 + sum(n * edge**2 for n, edge in zip(parameters, positions, strict=True))
    assert found == f"({unit}): {count / {'M': 1e6, 'G': 1e9}[unit]:.2f}"
