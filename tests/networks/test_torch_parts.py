from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.features.torch_backbone import TorchBackbone
from pipeline.features.weights import Weights, load_weights, resolve_weights
from pipeline.heads.linear_layer import LinearLayer
from pipeline.networks.blocks import CUTS, Cut
from pipeline.networks.torch_parts import Head, Network, frozen_part, learning_part
from tests.features.networks import some_pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve_weights("random", Path())


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_parts__one_after_the_other_are_the_network(weights: Weights, cut: Cut) -> None:
    pixels = some_pixels(3, 48)
    expected = TorchBackbone(weights, "float32", CPU)(pixels)
    rows = frozen_part(weights, cut, "float32", CPU, cut.dimension(48))(pixels)
    assert rows.shape == (3, cut.dimension(48))
    head = Head(0.5, 2, 25088)
    network = Network(learning_part(weights, cut), head)
    features: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].detach()))
    network(torch.from_numpy(rows).view(-1, *cut.shape(48)))
    assert np.abs(features[0].numpy() - expected).max() <= 1e-5 * expected.max()


def test_learning_part__is_a_copy_that_learns(weights: Weights) -> None:
    part = learning_part(weights, CUTS["block5"])
    assert [name for name, _ in part.named_parameters()] == [
        f"{index}.{kind}" for index in (24, 26, 28) for kind in ("weight", "bias")
    ]
    assert all(value.requires_grad for value in part.parameters())
    with torch.no_grad():
        for value in part.parameters():
            value.zero_()
    assert load_weights(weights)["28.weight"].any()


def test_learned__has_the_names_of_the_weights(weights: Weights) -> None:
    network = Network(learning_part(weights, CUTS["block4"]), Head(1.0, 2, 25088))
    learned, state = network.learned(), load_weights(weights)
    assert sorted(learned) == sorted(name for name in state if int(name.partition(".")[0]) >= 17)
    for name, value in learned.items():
        assert np.array_equal(value, state[name])


def test_head__starts_as_the_layer_that_it_is_given() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(0, 1e-3, (3, 50)), generator.normal(0, 1, 3)
    head = Head(1 / 700, 3, 50)
    assert not any(value.any() for value in head.parameters())
    head.start_from(LinearLayer(weight, bias, "softmax"))
    x = generator.uniform(0, 100, (4, 50)).astype(np.float32)
    logits = head(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(logits, x @ weight.T + bias, atol=1e-5)
    found_weight, found_bias = head.layer()
    assert np.allclose(found_weight, weight, rtol=1e-6)
    assert np.allclose(found_bias, bias, rtol=1e-6)
    assert found_weight.dtype == found_bias.dtype == np.float32
