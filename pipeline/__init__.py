"""Transfer learning from cached features.

Besides the command line there is this for Python, imported when it is first asked for: `load_features` reads
a workspace's features and labels; `VGG16Features`, or `BackboneFeatures` of another network, makes features
of images within a ``sklearn.pipeline.Pipeline``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.features.transformer import BackboneFeatures as BackboneFeatures
    from pipeline.features.vgg16_transformer import VGG16Features as VGG16Features
    from pipeline.heads.load_features import load_features as load_features

__version__ = "0.1.0"
__all__ = ["BackboneFeatures", "VGG16Features", "__version__", "load_features"]

_HOMES = {
    "BackboneFeatures": "pipeline.features.transformer",
    "VGG16Features": "pipeline.features.vgg16_transformer",
    "load_features": "pipeline.heads.load_features",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import pipeline`` takes no time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
