"""Whatever ends a run: what was computed is kept, and nothing is left running."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import (
    DeviceError,
    SourceError,
    StoreLocked,
)
from pipeline.features.extract import ExtractReport, extract
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.store import locked
from pipeline.workspace import Workspace
from tests import hostile
from tests.features.conftest import (
    disk_full_at,
    listing,
    manifest_of,
    python_path,
    shards_of,
)
from tests.features.extracts import failed_rows, quick, random_backbone, small_shards

__all__ = ["quick", "random_backbone"]  # fixtures

NewWorkspace = Callable[..., Workspace]


def test_extract__another_process_is_writing(workspace: Workspace, quick: list[int]) -> None:
    with locked(workspace.store_folder), pytest.raises(StoreLocked, match=f"process {os.getpid()} on "):
        extract(workspace)
    assert not quick
    assert extract(workspace).computed == 10


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError])
def test_extract__interrupted_keeps_what_was_computed_and_leaves_nothing_running(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    small_shards(monkeypatch, 4)
    calls = []

    def interrupted(extractor: Extractor, pixels: Any, forward: Any = Extractor.forward) -> Any:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise error
        return forward(extractor, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "forward", interrupted)
        with pytest.raises(error):
            extract(workspace, Execution(batch_size=2))
    assert len(shards_of(workspace)) == 2  # of four rows and of two
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("forward", "write"))]
    assert extract(workspace) == ExtractReport(images=10, computed=4, reused=6, copies=0)


@pytest.mark.usefixtures("quick")
def test_extract__image_that_crashes_or_hangs_its_decoder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = workspace.root / "photos"
    (photos / "cat" / "crash.png").write_bytes(b"crash")
    (photos / "dog" / "hang.png").write_bytes(b"hang")
    manifest_of(workspace)
    hostile.run_first(monkeypatch, tmp_path, hostile.DECODER)
    with pytest.raises(SourceError, match="2 of 12 images could not be read again, the others are stored"):
        extract(workspace, Execution(timeout=1))
    expected = [["path", "reason"], ["cat/crash.png", "decoder_crashed"], ["dog/hang.png", "timeout"]]
    assert failed_rows(workspace) == expected
    with pytest.raises(SourceError) as caught:  # tried again
        extract(workspace, Execution(timeout=1))
    assert str(caught.value) == (
        "2 of 2 images could not be read again (first: cat/crash.png: decoder_crashed; "
        f"all: {workspace.failed_file}). Run `pipeline prepare --rehash`, which looks at every image anew, "
        "then `pipeline extract --timeout 4`, for 1 took more than 1 s."
    )
    assert not workspace.index_file.exists()


@pytest.mark.usefixtures("quick")
def test_extract__images_that_only_take_too_long(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workspace.root / "photos" / "cat" / "hang.png"
    file.write_bytes(b"hang")
    manifest_of(workspace)
    hostile.run_first(monkeypatch, tmp_path, hostile.DECODER)
    with pytest.raises(SourceError) as caught:
        extract(workspace, Execution(timeout=1))
    assert str(caught.value) == (
        "1 of 11 images could not be read again, the others are stored (cat/hang.png: timeout; "
        f"listed in {workspace.failed_file}). If it needs more than the 1 s of --timeout, "
        "run `pipeline extract --timeout 4`."
    )


@pytest.mark.usefixtures("quick")
def test_extract__simulated_full_disk(new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 4)
    workspace, reference = new_workspace("full"), new_workspace("reference")
    extract(reference)
    with (
        disk_full_at(3),
        pytest.raises(OSError, match="No space left on device") as caught,
    ):  # store.json, a shard
        extract(workspace)
    assert str(caught.value.filename).startswith(str(workspace.store_folder))
    assert len(listing(workspace.store_folder)) == 2  # store.json, and the shard that was finished
    assert not workspace.index_file.exists()
    assert extract(workspace).reused == 4
    assert shards_of(workspace) == shards_of(reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 480 KB; the test is skipped where mounting one is not permitted."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=480k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("quick")
def test_extract__really_full_disk(
    new_workspace: NewWorkspace, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 4)  # 204 KB each: two fit
    workspace, reference = new_workspace("full"), new_workspace("reference")
    extract(reference)
    (workspace.root / "cache").symlink_to(small_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        extract(workspace)
    assert str(caught.value.filename).startswith(str(workspace.store_folder))
    shards = shards_of(workspace)
    assert len(shards) == 2
    assert shards.items() <= shards_of(reference).items()
    assert listing(workspace.store_folder) == sorted([*shards, "store.json"])

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert extract(workspace) == ExtractReport(images=10, computed=2, reused=8, copies=0)
    assert shards_of(workspace) == shards_of(reference)
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()


EXTRACT_SLOWLY = """
import sys, time
from pathlib import Path
from pipeline.features import extractor, shard_writer
from pipeline.features.extract import extract
from pipeline.workspace import Workspace

shard_writer.SHARD_ROWS = 2
forward = extractor.Extractor.forward
def slowly(self, pixels):
    time.sleep(0.03)  # so that a kill falls between shards as well as into them
    return forward(self, pixels)
extractor.Extractor.forward = slowly
extract(Workspace(Path(sys.argv[1])), extractor.Execution(backend="torch", batch_size=2))
"""


def kill_and_resume(workspace: Workspace, reference: Workspace, kills: int, seed: int) -> None:
    """Kill real runs at random moments after their first shard, then let one finish."""
    moments = random.Random(seed)
    command = [sys.executable, "-c", textwrap.dedent(EXTRACT_SLOWLY), str(workspace.root)]
    expected = shards_of(reference)
    for _ in range(kills):
        before = len(shards_of(workspace)) if workspace.store_folder.exists() else 0
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=python_path()
        )
        while process.poll() is None and len(list(workspace.store_folder.glob("*.h5"))) == before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # whatever is visible is whole, and what an uninterrupted run makes
        assert shards_of(workspace).items() <= expected.items()
        assert len(shards_of(workspace)) > before
    finished = len(shards_of(workspace))
    assert extract(workspace, Execution(batch_size=2)).computed == 2 * (len(expected) - finished)
    assert shards_of(workspace) == expected
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()
    assert listing(workspace.store_folder) == sorted([*expected, "store.json"])


def test_extract__killed_and_resumed(
    new_workspace: NewWorkspace, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 2)
    workspace, reference = new_workspace("killed", count=24), new_workspace("reference", count=24)
    extract(reference, Execution(batch_size=2))
    kill_and_resume(workspace, reference, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_extract__killed_and_resumed__many(
    new_workspace: NewWorkspace, quick: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    small_shards(monkeypatch, 2)
    workspace, reference = new_workspace("killed", count=200), new_workspace("reference", count=200)
    extract(reference, Execution(batch_size=2))
    kill_and_resume(workspace, reference, kills=8, seed=seed)


def test_extract__killed_in_the_middle_of_a_write(
    workspace: Workspace, new_workspace: NewWorkspace, quick: list[int]
) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipeline.features.store import FeatureStore\n"
        "from pipeline import files\n"
        "files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(Path(sys.argv[1]) / ('0' * 64 + '.h5'), bytes(100000))\n"
    )
    extract(workspace)
    before = shards_of(workspace)
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.store_folder)], env=python_path(), check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(workspace.store_folder.glob(".*.tmp"))) == 1
    assert shards_of(workspace) == before
    assert extract(workspace).computed == 0
    assert not list(workspace.store_folder.glob(".*.tmp"))
