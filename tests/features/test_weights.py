from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.features import checkpoints
from pipeline.features import weights as weights_module
from pipeline.features.identity import identity_of
from pipeline.features.state import CONVOLUTIONS, digest_of
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.params import ExtractParams
from tests.features.conftest import python_path

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """A state dict of torchvision's ``vgg16().features``."""
    random = resolve_weights("random", Path())
    return {key: torch.from_numpy(value) for key, value in load_weights(random).items()}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make files look settled, so that their digest is remembered."""
    monkeypatch.setattr("pipeline.files._SETTLED_NS", -1)


def whole_network(tensors: Tensors) -> Tensors:
    """The same with the keys of the whole network, and something of its classifier."""
    return {f"features.{key}": value for key, value in tensors.items()} | {
        "classifier.0.weight": torch.zeros(2, 2)
    }


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


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["XDG_CACHE_HOME"] + "/code-ran",)


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


# Files of other networks


@pytest.fixture(scope="module")
def resnet18() -> Tensors:
    """A state dict of torchvision's whole ``resnet18``, its values those of ``random``."""
    from torchvision import models

    values = load_weights(resolve_weights("random", Path(), "resnet18"))
    whole: Tensors = models.resnet18().state_dict()
    return whole | {key: torch.from_numpy(value) for key, value in values.items()}


def test_other__every_container_is_the_same_identity(tmp_path: Path, resnet18: Tensors) -> None:
    torch.save(resnet18, tmp_path / "whole.pth")
    save_file(resnet18, tmp_path / "whole.safetensors")
    bare = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    old = {key: value for key, value in bare.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")  # from before torch counted batches
    random = resolve_weights("random", Path(), "resnet18")
    assert len(load_weights(random)) == len(old)
    for path in sorted(tmp_path.iterdir()):
        weights = resolve_weights(path.name, tmp_path, "resnet18")
        assert (weights.sha256, weights.backbone) == (random.sha256, "resnet18"), path
        for key, value in load_weights(weights).items():
            np.testing.assert_array_equal(value, resnet18[key].numpy())


@pytest.mark.parametrize("key", ["bn1.running_var", "layer4.1.conv2.weight"])
def test_other__one_changed_number_is_another_identity(tmp_path: Path, resnet18: Tensors, key: str) -> None:
    changed = resnet18[key].clone()
    changed.view(-1)[-1] += 1
    save_file(resnet18 | {key: changed, "fc.bias": torch.ones(1000)}, tmp_path / "a.safetensors")
    save_file(resnet18 | {"fc.bias": torch.ones(1000)}, tmp_path / "head.safetensors")
    expected = resolve_weights("random", Path(), "resnet18").sha256
    assert resolve_weights("head.safetensors", tmp_path, "resnet18").sha256 == expected
    assert resolve_weights("a.safetensors", tmp_path, "resnet18").sha256 != expected


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            "resnet18",
            "w.pth lacks a float tensor conv1.weight of shape (64, 3, 7, 7): expected the keys of "
            "torchvision's resnet18.",
        ),
        ("vgg11_bn", "lacks a float tensor features.1.weight of shape (64,)"),
    ],
)
def test_other__a_file_of_vgg16(tmp_path: Path, tensors: Tensors, backbone: str, message: str) -> None:
    torch.save(whole_network(tensors), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resolve_weights("w.pth", tmp_path, backbone)
    assert message in str(caught.value)


def test_other__a_file_of_a_larger_network_of_the_family(tmp_path: Path, resnet18: Tensors) -> None:
    """It has every key that is looked for, and in the right shape."""
    torch.save(resnet18 | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resolve_weights("w.pth", tmp_path, "resnet18")
    assert str(caught.value) == (
        f"extract.weights: {tmp_path / 'w.pth'} holds layer1.2.conv1.weight, which torchvision's resnet18 "
        f"has not. Set extract.backbone to the network that the file is of."
    )


def test_other__a_file_whose_digest_for_vgg16_is_known_is_read_anew(
    tmp_path: Path, old: None, tensors: Tensors, resnet18: Tensors
) -> None:
    save_file(whole_network(tensors) | resnet18, tmp_path / "both.safetensors")
    assert resolve_weights("both.safetensors", tmp_path).sha256 == resolve_weights("random", Path()).sha256
    with pytest.raises(
        WeightsError, match=r"holds classifier\.0\.weight, which torchvision's resnet18 has not"
    ):
        resolve_weights("both.safetensors", tmp_path, "resnet18")


def test_other__code_in_a_checkpoint_is_not_run(tmp_path: Path, cache_home: Path, resnet18: Tensors) -> None:
    torch.save(resnet18 | {"extra": _Code()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        resolve_weights("w.pth", tmp_path, "resnet18")
    assert not (cache_home / "code-ran").exists()


def test_other__oxford_is_unknown_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights("oxford", tmp_path, "resnet50")
    assert str(caught.value) == (
        "extract.weights: 'oxford' is unknown. Set extract.weights to DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2 "
        "(from torchvision), or to the path of a .pth or .safetensors file with the keys of torchvision's "
        "resnet50; or extract.backbone to vgg16, whose weights are on the package index."
    )


# The memory of digests


@pytest.mark.usefixtures("old")
def test_digest__remembered_until_the_file_changes(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = weights_module._read

    def counted(file: Path, backbone: str) -> Any:
        reads.append(file)
        return read(file, backbone)

    monkeypatch.setattr(weights_module, "_read", counted)
    file = tmp_path / "a.safetensors"
    save_file(tensors, file)
    first = resolve_weights(file.name, tmp_path).sha256
    assert resolve_weights(file.name, tmp_path).sha256 == first
    assert len(reads) == 1
    save_file({**tensors, "0.bias": torch.ones(64)}, tmp_path / "b.safetensors")
    status = file.stat()
    (tmp_path / "b.safetensors").replace(file)  # same size, and time put back
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resolve_weights(file.name, tmp_path).sha256 != first
    assert len(reads) == 2


def test_digest__a_young_file_is_not_remembered(tmp_path: Path, tensors: Tensors, cache_home: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    resolve_weights("a.safetensors", tmp_path)
    memory = cache_home / "feature-cache-pipeline" / "weights-seen.json"
    assert not memory.exists()


@pytest.mark.usefixtures("old")
def test_digest__memory_that_cannot_be_written_costs_time_only(
    tmp_path: Path, tensors: Tensors, cache_home: Path
) -> None:
    (cache_home / "feature-cache-pipeline").write_text("a file where the folder should be")
    save_file(tensors, tmp_path / "a.safetensors")
    for _ in range(2):
        assert resolve_weights("a.safetensors", tmp_path).sha256 == resolve_weights("random", Path()).sha256


@pytest.mark.usefixtures("old")
def test_digest__second_look_does_not_import_torch(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    expected = resolve_weights("a.safetensors", tmp_path).sha256
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.features.weights import resolve_weights\n"
        f"print(resolve_weights('a.safetensors', Path({str(tmp_path)!r})).sha256, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout.split() == [expected, "False"]


# Torchvision's own


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_FEATURES"])
def test_torchvision__no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(WeightsError) as caught:
        resolve_weights(name, tmp_path)
    message = str(caught.value)
    assert f"extract.weights: {name} is not in {tmp_path / 'torch'} and cannot be downloaded" in message
    assert "Network is unreachable" in message
    assert "`oxford` (from the package index)" in message
    assert "\n" not in message
    assert f"fetching torchvision's VGG16 weights {name}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME"])
def test_torchvision__taken_from_torch_home(
    variable: str, tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    home = tmp_path if variable == "TORCH_HOME" else tmp_path / "torch"
    file = home / "hub" / "checkpoints" / "vgg16_features-amdegroot-88682ab5.pth"
    file.parent.mkdir(parents=True)
    torch.save(whole_network(tensors), file)
    assert torch.hub.get_dir() == str(home / "hub")
    weights = resolve_weights("IMAGENET1K_FEATURES", tmp_path)
    assert weights.file == file
    assert weights.sha256 == resolve_weights("random", tmp_path).sha256


def test_torchvision__names_and_normalisation_are_torchvisions() -> None:
    from torchvision.models import VGG16_Weights

    assert set(checkpoints._VGG16) == {member.name for member in VGG16_Weights}
    for name, (checkpoint, mean, std) in checkpoints._VGG16.items():
        published = VGG16_Weights[name]
        assert published.url.endswith("/" + checkpoint)
        preset = published.transforms()
        np.testing.assert_allclose(mean, preset.mean, atol=1e-7)
        np.testing.assert_allclose(std, preset.std, rtol=1e-6)
        assert preset.resize_size == [ExtractParams.resize]
        assert preset.crop_size == [ExtractParams.image_size]
        assert preset.antialias
        assert preset.interpolation.value == "bilinear"
