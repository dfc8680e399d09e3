"""VGG16 by blocks: where it is cut into a part that stays as it is, and a part that learns.

Owns the names of the cuts and what goes through each. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ParamsError
from pipeline.params import did_you_mean

# Numbers in a row that a store takes: of 256 × 256 pixels, those before block2.
_LARGEST_ROW = 1 << 20


@dataclass(frozen=True)
class Cut:
    """A place to cut.

    Attributes
    ----------
    name : str
        The first block that learns; ``all`` for the whole network.
    start : int
        Position, in torchvision's ``vgg16().features``, of the first layer that learns.
    layer : str
        The layer before, whose outputs go in; ``images`` where there is none.
    channels, halvings : int
        Of what goes in: channels, and how often the image has been halved by then.
    """

    name: str
    start: int
    layer: str
    channels: int
    halvings: int

    @property
    def has_prefix(self) -> bool:
        """Whether there is a part that stays as it is."""
        return self.start > 0

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return the shape of what goes in for an image: channels, height, width."""
        side = image_size >> self.halvings
        return self.channels, side, side

    def dimension(self, image_size: int) -> int:
        """Return how many numbers that is."""
        return math.prod(self.shape(image_size))

    def require_storable(self, image_size: int) -> None:
        """See that what goes in fits a store.

        Raises
        ------
        ParamsError
            It does not.
        """
        dimension = self.dimension(image_size)
        if dimension > _LARGEST_ROW:
            raise ParamsError(
                f"--unfreeze {self.name}: at extract.image_size {image_size} the frozen part makes "
                f"{dimension} numbers of an image, and at most {_LARGEST_ROW} can be stored. Unfreeze fewer "
                f"blocks, or give --no-prefix."
            )


#: By name; table 1, configuration D, of Simonyan & Zisserman, "Very Deep Convolutional Networks".
CUTS = {
    cut.name: cut
    for cut in (
        Cut("block5", 24, "pool4", 512, 4),
        Cut("block4", 17, "pool3", 256, 3),
        Cut("block3", 10, "pool2", 128, 2),
        Cut("block2", 5, "pool1", 64, 1),
        Cut("all", 0, "images", 3, 0),
    )
}


def cut_of(name: str) -> Cut:
    """Return the cut before the block called `name`.

    Raises
    ------
    ParamsError
        VGG16 has no such block.
    """
    if name not in CUTS:
        raise ParamsError(
            f"--unfreeze: expected one of {', '.join(CUTS)}, found {name!r}.{did_you_mean(name, CUTS)}"
        )
    return CUTS[name]
