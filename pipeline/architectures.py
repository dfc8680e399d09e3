"""The networks that features can be taken from: torchvision's classifiers, without their last layer.

Owns the one table of them, which is known without importing torch. What their layers are, torchvision
says; what their weights are, `extract.weights` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ParamsError
from pipeline.typed import did_you_mean

#: The default, and the only one whose features have positions, and that OpenVINO and int8 know.
VGG16 = "vgg16"


@dataclass(frozen=True)
class Architecture:
    """A network, cut before its last layer.

    Attributes
    ----------
    name : str
        As torchvision's ``get_model`` knows it.
    replaced : str
        The module whose input the features are: the last linear layer; of VGG16 the whole classifier.
    dimension : int
        How many features there are.
    smallest : int
        Pixels of the smallest square image.
    only_smallest : bool
        Whether it takes no image but of that size.
    """

    name: str
    replaced: str
    dimension: int
    smallest: int = 32  # no image below is worth the while, whatever the network
    only_smallest: bool = False

    @property
    def layer(self) -> str:
        """Where the features are taken, as it is written into the identity."""
        return "avgpool.flatten" if self.name == VGG16 else f"input of {self.replaced}"

    def check_image_size(self, image_size: int) -> None:
        """See that images of so many pixels fit through.

        Raises
        ------
        ParamsError
            They do not.
        """
        if self.only_smallest and image_size != self.smallest:
            raise ParamsError(
                f"extract.image_size: {self.name} takes images of {self.smallest} pixels and no others, "
                f"found {image_size}. Set it to {self.smallest}, or extract.backbone to another network."
            )
        if image_size < self.smallest:
            raise ParamsError(
                f"extract.image_size: {self.name} takes images of {self.smallest} pixels or more, "
                f"found {image_size}. Make it larger, or set extract.backbone to another network."
            )


def architecture_of(name: str) -> Architecture:
    """Return the network called `name`.

    Raises
    ------
    ParamsError
        There is none; a near miss is named.
    """
    if name in _WITHOUT_A_LAST_LAYER:
        raise ParamsError(
            f"extract.backbone: {name} ends in a convolution, so that there is no linear layer whose input "
            f"could be stored. Set it to another of torchvision's classifiers, such as mobilenet_v3_small."
        )
    if name not in ARCHITECTURES:
        raise ParamsError(
            f"extract.backbone: expected vgg16 or another of torchvision's classifiers, such as resnet50, "
            f"convnext_tiny or vit_b_16, found {name!r}.{did_you_mean(name, ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _family(
    replaced: str, dimensions: dict[str, int], smallest: int = 32, *, only_smallest: bool = False
) -> dict[str, Architecture]:
    return {
        name: Architecture(name, replaced, dimension, smallest, only_smallest)
        for name, dimension in dimensions.items()
    }


#: By name. All that `torchvision.models` lists, but for the two of `_WITHOUT_A_LAST_LAYER`.
ARCHITECTURES: dict[str, Architecture] = {
    **_family("classifier", {VGG16: 512 * 7 * 7}),
    **_family(
        "classifier.6",
        {"vgg11": 4096, "vgg13": 4096, "vgg19": 4096}
        | {"vgg11_bn": 4096, "vgg13_bn": 4096, "vgg16_bn": 4096, "vgg19_bn": 4096},
    ),
    **_family("classifier.6", {"alexnet": 4096}, 63),
    **_family(
        "fc",
        {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}
        | {"resnext50_32x4d": 2048, "resnext101_32x8d": 2048, "resnext101_64x4d": 2048}
        | {"wide_resnet50_2": 2048, "wide_resnet101_2": 2048}
        | {"regnet_x_400mf": 400, "regnet_x_800mf": 672, "regnet_x_1_6gf": 912, "regnet_x_3_2gf": 1008}
        | {"regnet_x_8gf": 1920, "regnet_x_16gf": 2048, "regnet_x_32gf": 2520}
        | {"regnet_y_400mf": 440, "regnet_y_800mf": 784, "regnet_y_1_6gf": 888, "regnet_y_3_2gf": 1512}
        | {"regnet_y_8gf": 2016, "regnet_y_16gf": 3024, "regnet_y_32gf": 3712, "regnet_y_128gf": 7392}
        | {"shufflenet_v2_x0_5": 1024, "shufflenet_v2_x1_0": 1024}
        | {"shufflenet_v2_x1_5": 1024, "shufflenet_v2_x2_0": 2048}
        | {"googlenet": 1024},
    ),
    **_family("fc", {"inception_v3": 2048}, 75),
    **_family(
        "classifier.1",
        {"efficientnet_b0": 1280, "efficientnet_b1": 1280, "efficientnet_b2": 1408, "efficientnet_b3": 1536}
        | {"efficientnet_b4": 1792, "efficientnet_b5": 2048, "efficientnet_b6": 2304, "efficientnet_b7": 2560}
        | {"mnasnet0_5": 1280, "mnasnet0_75": 1280, "mnasnet1_0": 1280, "mnasnet1_3": 1280}
        | {"mobilenet_v2": 1280},
    ),
    **_family(
        "classifier.1", {"efficientnet_v2_s": 1280, "efficientnet_v2_m": 1280, "efficientnet_v2_l": 1280}, 33
    ),
    **_family(
        "classifier.2",
        {"convnext_tiny": 768, "convnext_small": 768, "convnext_base": 1024, "convnext_large": 1536},
    ),
    **_family("classifier.3", {"mobilenet_v3_small": 1024, "mobilenet_v3_large": 1280}),
    **_family(
        "classifier", {"densenet121": 1024, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920}
    ),
    **_family("head", {"swin_t": 768, "swin_s": 768, "swin_b": 1024}, 224),
    **_family("head", {"swin_v2_t": 768, "swin_v2_s": 768, "swin_v2_b": 1024}, 256),
    **_family("classifier.5", {"maxvit_t": 512}, 224, only_smallest=True),
    **_family(
        "heads.head",
        {"vit_b_16": 768, "vit_b_32": 768, "vit_l_16": 1024, "vit_l_32": 1024, "vit_h_14": 1280},
        224,
        only_smallest=True,
    ),
}

_WITHOUT_A_LAST_LAYER = ("squeezenet1_0", "squeezenet1_1")
