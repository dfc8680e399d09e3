"""Compaction, killed at every moment."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline.dataset.manifest import write_manifest
from pipeline.features.compaction import compact
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace
from tests.features.compactions import rows_per_shard, small_shards, workspace
from tests.features.conftest import (
    disk_full_at,
    listing,
    python_path,
    shards_of,
)
from tests.features.stocks import holds, key_of, list_images, stock

__all__ = ["small_shards", "workspace"]  # fixtures


#: Copies a workspace for each way to die, and dies in a child of its own: at the nth renaming or
#: removal (at once before it), or after some time. Prints how each child ended.
KILLED = """
import json, os, shutil, signal, sys, time
from pathlib import Path
from pipeline.features import compaction
from pipeline.workspace import Workspace
compaction.SHARD_ROWS = 4
original, copies = Path(sys.argv[1]), Path(sys.argv[2])

def child(folder, dies_at):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in ("os.rename", "os.remove"):
            count += 1
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    compaction.compact(Workspace(folder))
    os._exit(0)

ends = []
for number, moment in enumerate(json.loads(sys.argv[3])):
    folder = copies / str(number)
    shutil.copytree(original, folder)
    pid = os.fork()
    if pid == 0:
        child(folder, moment if isinstance(moment, int) else 0)
    if isinstance(moment, float):
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(ends))
"""


def test_compact__killed_at_any_moment_loses_nothing_and_is_finished_by_the_next(
    workspace: Workspace, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = random.Random(5).sample(range(16), 16)
    shards = [numbers[:4], numbers[4:6], numbers[6:7], numbers[7:10], numbers[10:13], numbers[13:]]
    stock(workspace.store_folder, identity, [*shards, [100, 101]])
    named = [*range(5), *range(7, 16)]
    list_images(workspace, named)
    finished, copies = (tmp_path_factory.mktemp(name) for name in ("finished", "copies"))
    shutil.copytree(workspace.root, finished, dirs_exist_ok=True)
    compact(Workspace(finished))
    expected = shards_of(Workspace(finished))

    generator = random.Random(6)
    moments = [*range(1, 14), *(generator.uniform(0, 0.06) for _ in range(10))]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(workspace.root), str(copies), json.dumps(moments)],
        capture_output=True,
        text=True,
        check=True,
        env=python_path(),
    )
    ends = json.loads(done.stdout)
    assert ends.count(-9) >= 10
    assert ends[0] == -9
    for number in range(len(moments)):
        killed = Workspace(copies / str(number))
        store = FeatureStore.open(killed.store_folder)
        assert store.faults() == {}
        assert store.keys() >= {key_of(n) for n in named}
        compact(killed)
        assert shards_of(killed) == expected
        assert holds(killed.store_folder, named)
        assert listing(killed.store_folder) == sorted([*expected, "store.json"])


def test_compact__full_disk_loses_nothing(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [[n] for n in range(6)])
    list_images(workspace, range(6))
    with disk_full_at(2), pytest.raises(OSError, match="No space left"):
        compact(workspace)
    assert holds(workspace.store_folder, range(6))
    assert rows_per_shard(workspace) == [1, 1, 4]  # what had moved to the first shard was removed
    compact(workspace)
    assert holds(workspace.store_folder, range(6))
    assert rows_per_shard(workspace) == [2, 4]


def test_compact__does_not_depend_on_the_order_of_the_manifest_or_of_writing(
    workspace: Workspace, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "params.yaml").write_text("dataset: {source: photos}\n")
    shards = [[0, 1], [2], [3, 4, 5], [6], [7]]
    results = []
    for root, order in ((workspace.root, shards), (other, shards[::-1])):
        made = Workspace(root)
        stock(made.store_folder, identity, order)
        rows = list_images(made, range(1, 8)).rows
        if root == other:
            write_manifest(made.manifest_file, [replace(row, path=f"x{row.sha256}.png") for row in rows])
        compact(made)
        results.append(shards_of(made))
    assert results[0] == results[1]
