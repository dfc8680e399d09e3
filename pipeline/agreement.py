"""What two processes must have in common before they make parts of one thing: releases, and this code.

Owns what is compared, and how a difference is told: to the process that asks, as what is ``there``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import pipeline
from pipeline.console import printable
from pipeline.errors import ClusterError

# Distributions that have a say in the bytes of a feature or a shard.
_DISTRIBUTIONS = ("torch", "torchvision", "numpy", "pillow", "h5py", "openvino", "scikit-learn")


def releases() -> dict[str, str]:
    """Return what runs here, by name; what is not installed is ``none``."""
    found = {
        "pipeline": pipeline.__version__,
        "code of pipeline": _code(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def require_same(asked: Mapping[str, str]) -> None:
    """Refuse to work for a process where other releases run than here.

    Parameters
    ----------
    asked : mapping of str to str
        Its `releases`.

    Raises
    ------
    ClusterError
        They differ; the message has both, name by name.
    """
    here = releases()
    different = [
        f"{name} is {here.get(name, 'none')} there, and {asked.get(name, 'none')} here"
        for name in {**asked, **here}
        if here.get(name) != asked.get(name)
    ]
    if different:
        raise ClusterError(f"{'; '.join(different)}. Install the same on both.")


def require_alike(asked: Mapping[str, str], token: Path, folders: Sequence[Path]) -> None:
    """Refuse to work for a process with other releases, or with other folders than here.

    Parameters
    ----------
    asked : mapping of str to str
        Its `releases`.
    token : Path
        A file that it has just put into a folder that both are to write to.
    folders : sequence of Path
        That both are to read.

    Raises
    ------
    ClusterError
        They differ.
    """
    require_same(asked)
    absent = [folder for folder in folders if not folder.is_dir()]
    if not token.is_file():
        absent.append(token.parent)
    if absent:
        raise ClusterError(
            f"{printable(str(absent[0]))} is not there, or another folder than here. Workers need the "
            f"folders of the workspace and of the images under the same names: share them."
        )


@functools.cache
def _code() -> str:
    """Digest of this package's modules: two checkouts of one version may differ."""
    folder, digest = Path(pipeline.__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
