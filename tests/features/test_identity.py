from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import IdentityMismatch, StoreError, WeightsError
from pipeline.features.identity import DIMENSION, Identity, identity_of
from pipeline.features.quantised import quantised_digest
from pipeline.features.weights import Weights, resolve_weights
from pipeline.params import ExtractParams
from tests.features.networks import needs_openvino

OTHER: dict[str, Any] = {
    "backbone": "vgg19",
    "weights_sha256": "cd" * 32,
    "layer": "classifier.0",
    "decoding": "torchvision",
    "resizing": "bicubic",
    "resize": 255,
    "image_size": 223,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "precision": "float32",
    "storage": "float32",
    "quantised_sha256": "12" * 32,
    "dimension": 4096,
}


def test_as_dict__survives_json_exactly(identity: Identity) -> None:
    exact = replace(identity, mean=(123.68 / 255, 1 / 3, 0.1))
    assert Identity.from_dict(json.loads(json.dumps(exact.as_dict()))) == exact


def test_other__covers_every_part() -> None:
    assert set(OTHER) == {field.name for field in fields(Identity)}


@pytest.mark.parametrize("part", OTHER)
def test_require__every_part_counts_and_both_values_are_shown(identity: Identity, part: str) -> None:
    other = replace(identity, **{part: OTHER[part]})
    identity.require(identity, "this", "that", "Mend it.")
    with pytest.raises(IdentityMismatch) as caught:
        identity.require(other, "this", "that", "Mend it.")
    had, wants = (str(getattr(one, part)) for one in (identity, other))
    if part.endswith("_sha256"):
        had, wants = had[:12] + "…" if had else "none", wants[:12] + "…"
    assert str(caught.value) == f"this and that differ: {part} {had} against {wants}. Mend it."


@pytest.mark.parametrize("values", [None, [], "x", {}, {"backbone": "vgg16"}])
def test_from_dict__something_else(values: object) -> None:
    with pytest.raises(StoreError, match=r"not an extractor's identity: expected the keys backbone, "):
        Identity.from_dict(values)


def test_as_dict__a_quantised_network_is_named_only_where_there_is_one(identity: Identity) -> None:
    """So that stores of earlier releases stay what they were."""
    assert "quantised_sha256" not in identity.as_dict()
    quantised = replace(identity, quantised_sha256="12" * 32)
    assert quantised.as_dict() == identity.as_dict() | {"quantised_sha256": "12" * 32}
    assert Identity.from_dict(quantised.as_dict()) == quantised


def test_from_dict__unknown_part(identity: Identity) -> None:
    with pytest.raises(StoreError, match="not an extractor's identity"):
        Identity.from_dict(identity.as_dict() | {"views": 1})


def test_identity_of__takes_parameters_and_weights() -> None:
    weights = Weights("w.pth", "ef" * 32, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None)
    params = ExtractParams(precision="float32", resize=300, image_size=299, storage="float32")
    found = identity_of(params, weights)
    assert found.as_dict() == {
        "backbone": "vgg16",
        "weights_sha256": "ef" * 32,
        "layer": "avgpool.flatten",
        "decoding": "pillow, upright, RGB",
        "resizing": "pillow bilinear, antialiased",
        "resize": 300,
        "image_size": 299,
        "mean": [1.0, 2.0, 3.0],
        "std": [4.0, 5.0, 6.0],
        "precision": "float32",
        "storage": "float32",
    }


def test_identity_of__pixels_of_another_decoder_are_others() -> None:
    weights = Weights("w.pth", "ef" * 32, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None)
    pillow = identity_of(ExtractParams(decoder="pillow"), weights)
    nvjpeg = identity_of(ExtractParams(decoder="nvjpeg"), weights)
    assert pillow == identity_of(ExtractParams(), weights)
    with pytest.raises(IdentityMismatch, match="decoding pillow, upright, RGB against nvjpeg or else pillow"):
        pillow.require(nvjpeg, "this", "that", "Mend it.")


@needs_openvino
def test_identity_of__int8_is_the_network_that_was_drawn(random_network: Path) -> None:
    weights = Weights("w.pth", "ef" * 32, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None)
    int8 = ExtractParams(precision="int8")
    assert identity_of(int8, weights, random_network).quantised_sha256 == quantised_digest(random_network)
    assert identity_of(ExtractParams(), weights, random_network).quantised_sha256 == ""
    with pytest.raises(WeightsError, match="there is no quantised network"):
        identity_of(int8, weights, random_network.with_name("absent"))
    with pytest.raises(ValueError, match="needs a quantised network"):
        identity_of(int8, weights)


def test_identity_of__the_name_of_the_weights_is_no_part_of_it() -> None:
    one, two = (Weights(name, "ef" * 32, (0.0,) * 3, (1.0,) * 3, None) for name in ("a.pth", "b.safetensors"))
    assert identity_of(ExtractParams(), one) == identity_of(ExtractParams(), two)


def test_dimension__is_the_one_of_the_issue() -> None:
    assert DIMENSION == 25_088


# --- other networks


#: The committed index of this repository, to the byte: what stores, models and dvc.lock hang on.
VGG16_AS_JSON = (
    '{"backbone": "vgg16", '
    '"weights_sha256": "19ec0639c8e25db5cfffa5c5e655f01aadfd25971a10bc8d801f8dc74ee258fd", '
    '"layer": "avgpool.flatten", "decoding": "pillow, upright, RGB", '
    '"resizing": "pillow bilinear, antialiased", "resize": 256, "image_size": 224, '
    '"mean": [0.4850196078431373, 0.457956862745098, 0.4076039215686274], '
    '"std": [0.00392156862745098, 0.00392156862745098, 0.00392156862745098], '
    '"precision": "half", "storage": "float16"}'
)


def test_as_dict__of_vgg16_is_what_it_was_to_the_byte() -> None:
    found = identity_of(ExtractParams(), resolve_weights("oxford", Path()))
    assert json.dumps(found.as_dict()) == VGG16_AS_JSON
    assert Identity.from_dict(json.loads(VGG16_AS_JSON)) == found
    assert found.row_bytes == 50_176


def test_identity_of__another_network() -> None:
    params = ExtractParams(backbone="resnet50", weights="w.pth", storage="float32")
    weights = Weights("w.pth", "ef" * 32, (0.0,) * 3, (1.0,) * 3, None, "resnet50")
    found = identity_of(params, weights)
    assert (found.backbone, found.layer, found.dimension) == ("resnet50", "input of fc", 2048)
    assert found.row_bytes == 8192
    assert found.as_dict()["dimension"] == 2048
    assert Identity.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    with pytest.raises(ValueError, match="these are weights of resnet50, not of vgg16"):
        identity_of(ExtractParams(), weights)


@pytest.mark.parametrize("dimension", [0, -1, 10**9, 2048.0, "2048", True, None, [2048]])
def test_from_dict__a_dimension_not_to_be_believed(identity: Identity, dimension: Any) -> None:
    said = f"expected a dimension from 1 to 1048576, found {dimension!r}"
    with pytest.raises(StoreError, match=re.escape(said)):
        Identity.from_dict(identity.as_dict() | {"dimension": dimension})
