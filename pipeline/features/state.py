"""The values of VGG16's convolutions, as arrays, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

State = dict[str, npt.NDArray[np.float32]]

#: (index in torchvision's ``vgg16().features``, input channels, output channels) of the 13 convolutions
#: of configuration D in Simonyan & Zisserman, "Very Deep Convolutional Networks", table 1.
CONVOLUTIONS = (
    (0, 3, 64), (2, 64, 64),
    (5, 64, 128), (7, 128, 128),
    (10, 128, 256), (12, 256, 256), (14, 256, 256),
    (17, 256, 512), (19, 512, 512), (21, 512, 512),
    (24, 512, 512), (26, 512, 512), (28, 512, 512),
)  # fmt: skip


def digest_of(state: Mapping[str, npt.NDArray[Any]]) -> str:
    """Hash weights by name, shape and value, so that the same values in any file are the same.

    Parameters
    ----------
    state : mapping of str to ndarray
        Hashed as float32, little endian, in the order of the names.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = np.ascontiguousarray(state[name], dtype="<f4")
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def user_cache() -> Path:
    """Folder for what is fetched once for all workspaces (honours ``XDG_CACHE_HOME``)."""
    from platformdirs import user_cache_path

    return user_cache_path("feature-cache-pipeline", appauthor=False)
