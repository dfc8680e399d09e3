"""Commands that are stopped: they end at once, keep what was finished, and go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.dataset.prepare import prepare
from pipeline.workspace import Workspace
from tests.commands.programs import MAIN
from tests.conftest import write_images

Run = Callable[..., Result]

SLOW_RUN = """\
import pipeline.features.store as store
store.SHARD_ROWS = 4  # many small shards: the first is soon done
from pipeline.cli import main
main()
"""


@contextlib.contextmanager
def running_extract(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """Run `pipeline extract` in a session of its own, and yield once it has written a shard."""
    before = len(list(workspace.store_folder.glob("*.h5")))
    arguments = ["--root", str(workspace.root), "extract", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while len(list(workspace.store_folder.glob("*.h5"))) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_extract__stopped_and_resumed(tmp_path: Path, workspace: Workspace, run: Run) -> None:
    write_images(tmp_path / "photos", {"cat": 32, "dog": 32})
    prepare(workspace)
    for number in (signal.SIGINT, signal.SIGTERM):
        with running_extract(workspace) as process:
            process.send_signal(number)
            _, said = process.communicate(timeout=10)
            assert process.returncode == 130
            *progress, last = said.splitlines()
            assert last.startswith("pipeline: stopped; what was finished is kept")
            assert [line for line in progress if not line.startswith("extract: ")] == []
            with pytest.raises(ProcessLookupError):  # nobody is left in its group
                os.killpg(process.pid, 0)
        assert list(workspace.store_folder.glob(".*.tmp")) == []
        assert not workspace.index_file.exists()
    report = json.loads(run("extract", "--json").stdout)
    assert 8 <= report["reused"] < 64
    assert report["computed"] == 64 - report["reused"]
    assert workspace.index_file.is_file()


def test_prepare__stopped(tmp_path: Path, workspace: Workspace) -> None:
    write_images(tmp_path / "photos", {"cat": 1500}, size=8)
    process = subprocess.Popen(
        [*MAIN, "--root", str(workspace.root), "prepare"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(_processes_of_session(process.pid)) < 2:  # it has started to look into images
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("pipeline: stopped; what was finished is kept")
    assert _processes_of_session(process.pid) == []
    assert not workspace.manifest_file.exists()


def _processes_of_session(session: int) -> list[int]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc here to find a session's processes in")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # after the name in parentheses: state, parent, group, session
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found
