"""What all tests share: a private user cache, small real images, and workspaces made of them."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.edit_params import write_params
from pipeline.features import weights
from pipeline.features.state import State, digest_of
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace

#: A network that costs a fiftieth of the real one: random weights, images of 32 pixels.
SMALL_NETWORK = {"extract.weights": "random", "extract.image_size": 32, "extract.resize": 32}


# Of half a minute each: begun last, they would keep one worker busy alone.
_LONGEST = ("test_dvc.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> None:
    """Let Ctrl-C stop what the tests stop by it: in its workers pytest-xdist has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what the code remembers for its user away from the real user's cache."""
    folder = tmp_path_factory.mktemp("user-cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True, scope="session")
def drawn_once() -> Iterator[None]:
    """Draw and hash VGG16's 15 million random weights once in a process, not with every command."""
    draw = functools.cache(weights._random_state)
    digest_of_drawn = functools.cache(lambda: digest_of(draw()))

    def digest(state: State) -> str:
        return digest_of_drawn() if draw.cache_info().currsize and state is draw() else digest_of(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_random_state", draw)
        patch.setattr(weights, "digest_of", digest)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and bad images beside the project; tests skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "cats-dogs").is_dir():
        pytest.skip("no ../shared with photographs beside the project")
    return folder


def write_images(folder: Path, classes: dict[str, int], size: int = 40) -> Path:
    """Write small images, one folder a class: each class has a colour of its own, and noise.

    Returns `folder`.
    """
    for number, (label, count) in enumerate(classes.items()):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            generator = np.random.default_rng([number, index])
            colour = np.array([60 + 90 * (number % 3), 120, 220 - 70 * (number % 3)])
            pixels = colour + generator.normal(0, 20, (size, size, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / label / f"{label}-{index:03}.png")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty images of two classes."""
    return write_images(tmp_path / "photos", {"cat": 20, "dog": 20})


@pytest.fixture
def workspace(tmp_path: Path, source: Path) -> Workspace:
    """A workspace on `source` with the small network, nothing run yet."""
    root = tmp_path / "workspace"
    create_workspace(root, str(source))
    write_params(root / "params.yaml", SMALL_NETWORK)
    return Workspace(root)


@pytest.fixture
def run(workspace: Workspace) -> Callable[..., Result]:
    """Run `pipeline` in this process on `workspace`; the output is shown where a test fails.

    ``run("train", "logreg", code=1)`` also checks the exit code (0 unless given).
    """

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--root", str(workspace.root), *arguments])
        print(f"$ pipeline {' '.join(arguments)}\n{result.output}")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code
        return result

    return invoke
