from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import WeightsError
from pipeline.features.normalisation import normalisation_note, noted_normalisation
from pipeline.features.weights import load_weights, resolve_weights

MEAN, STD = (0.1, -0.25, 1 / 3), (0.5, 1.5, 1 / 7)


def written(file: Path, note: dict[str, str] | None) -> Path:
    save_file({"weight": np.zeros(2, np.float32)}, file, note)
    return file


def test_note__is_read_to_the_last_bit(tmp_path: Path) -> None:
    file = written(tmp_path / "a.safetensors", normalisation_note(MEAN, STD))
    assert noted_normalisation(file) == (MEAN, STD)


@pytest.mark.parametrize("note", [None, {"format": "pt"}])
def test_note__none(tmp_path: Path, note: dict[str, str] | None) -> None:
    assert noted_normalisation(written(tmp_path / "a.safetensors", note)) is None


def test_note__files_that_cannot_have_one(tmp_path: Path) -> None:
    for name, data in (("a.pth", b"PK"), ("a.safetensors", b"damaged")):
        (tmp_path / name).write_bytes(data)
        assert noted_normalisation(tmp_path / name) is None
    assert noted_normalisation(tmp_path / "absent.safetensors") is None


@pytest.mark.parametrize(
    "note",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"mean": [0, 0, 0]}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 1]}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 1, 0]}),
        json.dumps({"mean": [0, 0, "0"], "std": [1, 1, 1]}),
        json.dumps({"mean": [0, 0, True], "std": [1, 1, 1]}),
        '{"mean": [0, 0, NaN], "std": [1, 1, 1]}',
        '{"mean": [0, 0, 0], "std": [1, 1, Infinity]}',
        json.dumps({"mean": 0.5, "std": [1, 1, 1]}),
    ],
)
def test_note__that_is_none(tmp_path: Path, note: str) -> None:
    file = written(tmp_path / "a.safetensors", {"normalisation": note})
    with pytest.raises(WeightsError, match="notes a normalisation that is none") as caught:
        noted_normalisation(file)
    assert "\n" not in str(caught.value)


def test_weights__of_a_path_have_the_noted_normalisation(tmp_path: Path) -> None:
    random = resolve_weights("random", tmp_path)
    state = {f"features.{name}": value for name, value in load_weights(random).items()}
    save_file(state, tmp_path / "noted.safetensors", normalisation_note(MEAN, STD))
    save_file(state, tmp_path / "plain.safetensors")
    noted, plain = (resolve_weights(f"{name}.safetensors", tmp_path) for name in ("noted", "plain"))
    assert noted.sha256 == plain.sha256 == random.sha256
    assert (noted.mean, noted.std) == (MEAN, STD)
    assert (plain.mean, plain.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
