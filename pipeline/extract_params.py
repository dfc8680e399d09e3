"""The section ``extract`` of ``params.yaml``: what makes the features what they are.

Owns which of its values go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.architectures import VGG16, architecture_of
from pipeline.errors import ParamsError
from pipeline.views import CENTER, View, ordered


@dataclass(frozen=True)
class ExtractParams:
    """What makes the features what they are.

    Attributes
    ----------
    backbone : str
        The network that images are pushed through once: ``vgg16``, or another of
        `pipeline.architectures.ARCHITECTURES`.
    weights : str
        ``oxford``, ``IMAGENET1K_V1``, ``IMAGENET1K_FEATURES``, ``random`` (tests only), or a
        path to a ``.pth`` or ``.safetensors`` file. Of other networks than VGG16 ``DEFAULT`` or another
        name of torchvision's, ``random``, or a path.
    precision : {"half", "float32", "int8"}
        Of the forward pass. ``half`` is bfloat16 or float16 where the hardware has them, and
        whatever is better elsewhere; ``int8`` needs the extra ``openvino``, and VGG16.
    resize, image_size : int
        Pixels of the shorter side after resizing, and of the square cut from its centre.
    storage : {"float16", "float32"}
        Of the numbers in the store.
    views : tuple of str
        Of each image, a row each: ``center`` and others of `pipeline.views.VIEWS`, in their order there.
    decoder : {"pillow", "nvjpeg"}
        Of JPEGs. ``nvjpeg`` decodes and resizes them on an NVIDIA GPU, to slightly other pixels.
    """

    backbone: str = VGG16
    weights: str = "oxford"
    precision: Literal["half", "float32", "int8"] = "half"
    resize: int = 256
    image_size: int = 224
    storage: Literal["float16", "float32"] = "float16"
    views: tuple[View, ...] = (CENTER,)
    decoder: Literal["pillow", "nvjpeg"] = "pillow"

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", ordered(self.views, "extract.views"))
        architecture = architecture_of(self.backbone)
        if self.backbone != VGG16:
            self._refuse_what_is_of_vgg16()
        # 32: VGG16 halves the image five times
        if not 32 <= self.image_size <= self.resize <= 4096:
            raise ParamsError(
                f"extract: expected 32 <= image_size <= resize <= 4096, "
                f"found image_size {self.image_size} and resize {self.resize}."
            )
        architecture.check_image_size(self.image_size)
        if self.decoder == "nvjpeg" and self.precision == "int8":
            raise ParamsError(
                "extract.decoder: nvjpeg runs on an NVIDIA GPU, and extract.precision int8 on a CPU only. "
                "Set extract.decoder to pillow, or extract.precision to half or float32."
            )

    def _refuse_what_is_of_vgg16(self) -> None:
        if self.weights == "oxford":
            raise ParamsError(
                f"extract.weights: oxford are weights of vgg16, and extract.backbone is {self.backbone}. Set "
                f"extract.weights to DEFAULT (torchvision's), or to the path of a .pth or .safetensors file."
            )
        if self.precision == "int8":
            raise ParamsError(
                f"extract.precision: int8 is there for vgg16 only, and extract.backbone is {self.backbone}. "
                f"Set extract.precision to half or float32."
            )
