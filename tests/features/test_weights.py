from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.features.identity import identity_of
from pipeline.features.state import CONVOLUTIONS, digest_of
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.params import ExtractParams
from tests.features.checkpoint_files import _Code, tensors, whole_network

__all__ = ["tensors"]  # fixtures

Tensors = dict[str, torch.Tensor]


def test_random__is_deterministic_and_plausible(tensors: Tensors) -> None:
    assert resolve_weights("random", Path()).sha256 == digest_of(
        {key: value.numpy() for key, value in tensors.items()}
    )
    assert set(tensors) == {f"{index}.{part}" for index, _, _ in CONVOLUTIONS for part in ("weight", "bias")}
    assert sum(value.numel() for value in tensors.values()) == 14_714_688


def test_digest_of__name_shape_and_value_count_and_container_does_not() -> None:
    base = {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "0.bias": np.array([1, 2], np.float32)}
    turned = dict(reversed(base.items()))
    strided = {"0.bias": base["0.bias"], "0.weight": np.asfortranarray(base["0.weight"])}
    assert digest_of(base) == digest_of(turned) == digest_of(strided)
    assert digest_of({**base, "0.bias": base["0.bias"].astype(">f8")}) == digest_of(base)
    others = [
        {**base, "0.bias": np.array([1, 2.0000002], np.float32)},
        {**base, "0.weight": base["0.weight"].reshape(3, 2)},
        {"1.weight": base["0.weight"], "0.bias": base["0.bias"]},
        {"0.weight": base["0.weight"]},
    ]
    assert len({digest_of(state) for state in (base, *others)}) == 5


def test_path__every_container_and_key_style_is_the_same_identity(tmp_path: Path, tensors: Tensors) -> None:
    torch.save(tensors, tmp_path / "bare.pth")
    torch.save(whole_network(tensors), tmp_path / "whole.pt")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    trained = {key: torch.nn.Parameter(value.clone()) for key, value in tensors.items()}
    torch.save(trained, tmp_path / "trained.pth")
    save_file(tensors, tmp_path / "bare.safetensors")
    save_file(whole_network(tensors), tmp_path / "whole.safetensors")
    names = [path.name for path in sorted(tmp_path.iterdir())]
    found = [resolve_weights(name, tmp_path) for name in names]
    params = ExtractParams()
    expected = identity_of(params, resolve_weights("random", tmp_path))
    for name, weights in zip(names, found, strict=True):
        assert identity_of(params, weights) == expected, name
        for key, value in load_weights(weights).items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, tensors[key].numpy())


def test_path__relative_starts_at_the_workspace_and_absolute_is_kept(
    tmp_path: Path, tensors: Tensors
) -> None:
    (tmp_path / "w").mkdir()
    save_file(tensors, tmp_path / "w" / "a.safetensors")
    assert resolve_weights("w/a.safetensors", tmp_path).file == tmp_path / "w" / "a.safetensors"
    absolute = str(tmp_path / "w" / "a.safetensors")
    assert resolve_weights(absolute, Path("/nowhere")).sha256 == resolve_weights("random", Path()).sha256


def test_path__one_changed_number_is_another_identity(tmp_path: Path, tensors: Tensors) -> None:
    other = {key: value.clone() for key, value in tensors.items()}
    other["28.bias"][511] += 1e-6
    save_file(other, tmp_path / "a.safetensors")
    assert resolve_weights("a.safetensors", tmp_path).sha256 != resolve_weights("random", Path()).sha256


def _nan(tensors: Tensors) -> Any:
    bias = torch.zeros(64)
    bias[63] = float("nan")
    return {**tensors, "0.bias": bias}


LACKS = "lacks a float tensor features."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "28.bias"}, LACKS + "28.bias of shape (512,)"),
        (lambda t: t | {"0.weight": torch.zeros(64, 3, 5, 5)}, LACKS + "0.weight of shape (64, 3, 3, 3)"),
        (lambda t: t | {"0.bias": torch.zeros(64, dtype=torch.int32)}, LACKS + "0.bias"),
        (lambda t: t | {"0.bias": torch.zeros(64, dtype=torch.complex64)}, LACKS + "0.bias"),
        (lambda t: t | {"0.bias": torch.zeros(64, device="meta")}, LACKS + "0.bias"),
        (lambda t: t | {"0.bias": [0.0] * 64}, LACKS + "0.bias"),
        (lambda t: {"state_dict": t}, LACKS + "0.weight"),
        (lambda t: [*t.values()], LACKS + "0.weight"),
        (lambda t: 5, LACKS + "0.weight"),
        (_nan, ": features.0.bias holds numbers that are not finite"),
        (lambda t: t | {"0.bias": torch.full((64,), 1e300, dtype=torch.float64)}, "not finite"),
        (lambda t: _Code(), "cannot be read as plain tensors (UnpicklingError). Save a state dict"),
        (lambda t: t | {"extra": _Code()}, "cannot be read as plain tensors (UnpicklingError)"),
    ],
)
def test_path__unfit(tmp_path: Path, cache_home: Path, tensors: Tensors, spoil: Any, message: str) -> None:
    torch.save(spoil(tensors), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resolve_weights("w.pth", tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"extract.weights: {tmp_path / 'w.pth'}")
    assert "\n" not in str(caught.value)
    assert not (cache_home / "code-ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_path__damaged_file(tmp_path: Path, tensors: Tensors, name: str) -> None:
    file = tmp_path / name
    torch.save(tensors, file) if file.suffix == ".pth" else save_file(tensors, file)
    data = file.read_bytes()
    random = np.random.default_rng(0)
    damaged = [data[:size] for size in (0, 1, 100, len(data) // 2, len(data) - 1)]
    for _ in range(8):
        spoilt = bytearray(data)
        for place in random.integers(-2000, 2000, 5):  # both ends, where the structure is
            spoilt[place] = int(random.integers(256))
        damaged.append(bytes(spoilt))
    refused = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            found = resolve_weights(name, tmp_path).sha256
        except WeightsError as error:
            assert str(file) in str(error)  # noqa: PT017 (some are harmless, none may be another error)
            refused += 1
        else:
            assert len(found) == 64
    assert refused >= 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_path__damaged_file__many(tmp_path: Path, tensors: Tensors, seed: int) -> None:
    random = np.random.default_rng(seed)
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=seed != 0)
    data = (tmp_path / "w.pth").read_bytes()
    for _ in range(60):
        spoilt = bytearray(data)
        for place in random.integers(-4000, 4000, 4):
            spoilt[place] = int(random.integers(256))
        (tmp_path / "w.pth").write_bytes(spoilt)
        try:
            assert len(resolve_weights("w.pth", tmp_path).sha256) == 64
        except WeightsError as error:
            assert "w.pth" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oxfrod", "extract.weights: 'oxfrod' is unknown. Set extract.weights to `oxford`"),
        ("IMAGENET1K_V2", "extract.weights: 'IMAGENET1K_V2' is unknown. Set extract.weights to"),
        ("weights.onnx", "extract.weights: 'weights.onnx' is unknown"),
        ("none.pth", "none.pth does not exist. Set extract.weights to"),
        ("folder.pth", "folder.pth does not exist"),
        ("~nobody-of-that-name/w.pth", "extract.weights: ~nobody-of-that-name/w.pth: no such user"),
        ("evil\n\x1b[2J.pth", "evil\\n\\x1b[2J.pth does not exist"),
    ],
)
def test_path__absent_or_unknown(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError) as caught:
        resolve_weights(name, tmp_path)
    assert message in str(caught.value)
    assert "IMAGENET1K_FEATURES" in str(caught.value)
    assert ".safetensors" in str(caught.value)


def test_load__file_changed_since_it_was_resolved(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    weights = resolve_weights("a.safetensors", tmp_path)
    save_file({**tensors, "0.bias": torch.ones(64)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a.safetensors: changed while it was being used. Run again."):
        load_weights(weights)
