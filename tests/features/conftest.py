from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest, write_manifest
from pipeline.features import oxford
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.quantised import quantise
from pipeline.features.store import RowKey
from pipeline.features.weights import resolve_weights
from pipeline.workspace import Workspace
from tests.features.networks import some_pixels

PARAMS = """\
dataset: {source: photos}
extract: {weights: random, precision: float32, resize: 32, image_size: 32}
"""

MADE_WITH = {"device": "cpu", "computed_in": "float32"}

#: In the real user's cache: 59 MB that are checked by their digest, and shared by all test runs.
OXFORD_FILE = oxford.weights_file()


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's user keeps caches: nobody else's are read or written."""
    home = tmp_path_factory.mktemp("cache-home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    return home


@pytest.fixture(scope="session")
def oxford_file() -> Path:
    """The converted oxford weights in the real user's cache, fetched by the real code where absent."""
    oxford.load(OXFORD_FILE)
    return OXFORD_FILE


@pytest.fixture
def oxford_in_cache(oxford_file: Path, cache_home: Path) -> Path:
    """The oxford weights, as the user of this test finds them."""
    file = oxford.weights_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(oxford_file)
    return file


@pytest.fixture(scope="session")
def random_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random weights, quantised (needs OpenVINO)."""
    file = tmp_path_factory.mktemp("networks") / "quantised.safetensors"
    file.write_bytes(quantise(resolve_weights("random", Path()), some_pixels(6)))
    return file


@pytest.fixture
def identity() -> Identity:
    return Identity(
        backbone="vgg16",
        weights_sha256="ab" * 32,
        layer="avgpool.flatten",
        decoding="pillow, upright, RGB",
        resizing="bilinear, antialiased",
        resize=256,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision="half",
        storage="float16",
    )


def some_keys(count: int, start: int = 0) -> list[RowKey]:
    """Row keys that no two calls with other numbers share."""
    return [
        RowKey(hashlib.sha256(str(number).encode()).hexdigest()) for number in range(start, start + count)
    ]


def some_features(count: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Distinct rows, none of them zero."""
    return np.random.default_rng(seed).uniform(0.5, 9, (count, DIMENSION)).astype(np.float16)


def write_photo(file: Path, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    """Write a small colourful PNG that no other seed gives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)


def manifest_of(workspace: Workspace, labels: dict[str, str] | None = None) -> Manifest:
    """Write the manifest of what lies in ``photos``, every image in train, and read it back."""
    root = workspace.root / "photos"
    rows = []
    for file in sorted(root.rglob("*.png")):
        data, path = file.read_bytes(), file.relative_to(root).as_posix()
        label = (labels or {}).get(path, file.parent.name)
        sha256 = hashlib.sha256(data).hexdigest()
        rows.append(ImageRow(path, label, "train", "", sha256, len(data), 40, 36, "ok", ""))
    write_manifest(workspace.manifest_file, rows)
    return read_manifest(workspace.manifest_file)


@pytest.fixture
def new_workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """Make a workspace with `count` small photographs of two classes, listed in its manifest."""

    def make(name: str = "workspace", count: int = 10, params: str = PARAMS) -> Workspace:
        root = tmp_path / name
        root.mkdir()
        for number in range(count):
            write_photo(root / "photos" / ("cat", "dog")[number % 2] / f"{number:03d}.png", number)
        (root / "params.yaml").write_text(params)
        workspace = Workspace(root)
        manifest_of(workspace)
        return workspace

    return make


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Ten photographs of two classes."""
    return new_workspace()


def shards_of(workspace: Workspace) -> dict[str, bytes]:
    """All shards by name."""
    return {path.name: path.read_bytes() for path in workspace.store_folder.glob("*.h5")}


def relative_errors(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """2-norm of each row's error, relative to that of the row."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    errors: npt.NDArray[np.float64] = np.linalg.norm(found - expected, axis=1)
    errors /= np.linalg.norm(expected, axis=1)
    return errors


def python_path() -> dict[str, str]:
    """Environment in which another process finds this package."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}


def listing(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too, the lock left out."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def stat_of(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Inode and time of change: whether files were written again."""
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]


@contextlib.contextmanager
def disk_full_at(count: int) -> Iterator[None]:
    """Have the file that is written as number `count` find the disk full, half-way through."""
    write_bytes, written = Path.write_bytes, []

    def nearly_full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == count:
            write_bytes(path, data[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", nearly_full)
        yield
