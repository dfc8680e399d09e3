from __future__ import annotations

import pytest
import torch
from torchvision.models import vgg16

from pipeline.errors import ParamsError
from pipeline.networks.blocks import CUTS, Cut, cut_of


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("size", [32, 75])
def test_cut__shape_is_that_of_torchvisions_layers(cut: Cut, size: int) -> None:
    with torch.device("meta"):
        before = vgg16(weights=None).features[: cut.start]
        found = before(torch.empty(1, 3, size, size))
    assert tuple(found.shape[1:]) == cut.shape(size)
    assert found.numel() == cut.dimension(size)


def test_cut__is_behind_a_pooling() -> None:
    with torch.device("meta"):
        features = vgg16(weights=None).features
    poolings = [place for place, layer in enumerate(features) if isinstance(layer, torch.nn.MaxPool2d)]
    starts = {cut.name: cut.start for cut in CUTS.values() if cut.has_prefix}
    # block2 follows the first pooling, and block5 the fourth
    assert starts == {f"block{number + 2}": place + 1 for number, place in enumerate(poolings[:-1])}
    assert {cut.layer for cut in CUTS.values()} == {"images", "pool1", "pool2", "pool3", "pool4"}


def test_cut__before_block5_of_a_photograph() -> None:
    assert cut_of("block5").shape(224) == (512, 14, 14)
    assert not cut_of("all").has_prefix


@pytest.mark.parametrize("name", ["block6", "block1", "", "blok5"])
def test_cut_of__no_such_block(name: str) -> None:
    with pytest.raises(ParamsError, match=r"--unfreeze: expected one of block5, .*, all, found") as caught:
        cut_of(name)
    assert ("Did you mean" in str(caught.value)) == bool(name)


def test_require_storable() -> None:
    cut_of("block2").require_storable(256)
    with pytest.raises(ParamsError, match="1115136 numbers of an image, and at most 1048576 can be stored"):
        cut_of("block2").require_storable(264)
