"""`pipeline store`: what is printed, and the exit codes. What is done is tested with the features."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import Result

from pipeline.commands.store import command
from pipeline.edit_params import write_params
from pipeline.features.identity import Identity, identity_of
from pipeline.features.store import FeatureStore, locked
from pipeline.features.weights import resolve_weights
from pipeline.params import read_params
from pipeline.workspace import Workspace
from tests.features.conftest import MADE_WITH
from tests.features.stocks import holds, list_images, stock
from tests.index_file import write_index

Run = Callable[..., Result]


@pytest.fixture
def identity(workspace: Workspace) -> Identity:
    """One that params.yaml asks for."""
    asked = read_params(workspace.params_file).extract
    return identity_of(asked, resolve_weights(asked.weights, workspace.root))


@pytest.fixture
def stocked(workspace: Workspace, identity: Identity) -> Workspace:
    """Rows 0 to 5 in three shards, images 0 to 4."""
    stock(workspace.store_folder, identity, [[0, 1], [2, 3], [4, 5]])
    write_index(workspace, identity, "random", list_images(workspace, range(5)))
    return workspace


@pytest.fixture
def other(tmp_path: Path, identity: Identity) -> Path:
    """The store of another project: rows 4 to 9 in three shards."""
    return stock(tmp_path / "other", identity, [[4, 5], [6, 7], [8, 9]]).folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def last_line(result: Result) -> str:
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["info", "verify", "gc", "import"])
def test_help__has_an_example_that_parses(run: Run, name: str) -> None:
    assert "Example:  pipeline store" in run("store", name, "--help").stdout
    assert isinstance(command, click.Group)
    epilog = command.commands[name].epilog
    assert epilog is not None
    program, group, called, *arguments = shlex.split(epilog.removeprefix("Example:"))
    assert (program, group, called) == ("pipeline", "store", name)
    assert set(arguments) <= {"--json", "--dry-run", "../other-project"}


@pytest.mark.parametrize("name", ["info", "verify", "gc"])
@pytest.mark.parametrize("as_json", [True, False])
def test_no_store(run: Run, workspace: Workspace, name: str, as_json: bool) -> None:
    list_images(workspace, range(3))
    result = run("store", name, *["--json"] * as_json, code=1)
    assert result.stdout == ""
    assert result.stderr == (
        f"pipeline: {workspace.store_folder}: no features yet. Run `pipeline extract` first.\n"
    )


def test_info(run: Run, stocked: Workspace, identity: Identity) -> None:
    for path in FeatureStore.open(stocked.store_folder).shards():
        os.utime(path, (1, 1))
    lines = run("store", "info").stdout.splitlines()
    assert f"folder     {stocked.store_folder}" in lines
    assert "manifest   uses 5 of them, 1 not" in lines
    assert "identity   backbone vgg16" in lines
    assert f"identity   weights_sha256 {identity.weights_sha256}" in lines
    (rows,) = (line for line in lines if line.startswith("rows "))
    assert rows.startswith("rows       6 in 3 shards, ")
    (written,) = (line for line in lines if line.startswith("written "))
    assert written.endswith(" days ago")
    (made,) = (line for line in lines if line.startswith("made with "))
    assert made == "made with  computed_in float32, device cpu: 6 rows"


def test_info__what_needs_attention(run: Run, stocked: Workspace) -> None:
    first, second, _ = FeatureStore.open(stocked.store_folder).shards()
    first.write_bytes(b"")
    second.rename(second.with_name(f"{second.name}.damaged"))
    lines = run("store", "info").stdout.splitlines()
    assert f"unusable   {first.name}; run `pipeline extract`" in lines
    assert f"set aside  {second.name}.damaged; `pipeline store gc` removes it" in lines
    assert any("without features; run `pipeline extract`" in line for line in lines)
    stocked.manifest_file.unlink()
    assert "manifest   there is none" in run("store", "info").stdout.splitlines()


def test_info__json(run: Run, stocked: Workspace, identity: Identity) -> None:
    info = json.loads(run("store", "info", "--json").stdout)
    assert info["rows"] == 6
    assert info["identity"] == identity.as_dict()
    assert info["made_with"] == [{**MADE_WITH, "rows": 6}]


def test_verify__whole(run: Run, stocked: Workspace) -> None:
    result = run("store", "verify")
    assert result.stdout.startswith("3 shards, 6 rows, ")
    assert result.stdout.endswith(": all whole\n")
    assert json.loads(run("store", "verify", "--json").stdout)["damaged"] == {}


@pytest.mark.parametrize("as_json", [True, False])
def test_verify__damaged(run: Run, stocked: Workspace, as_json: bool) -> None:
    path = FeatureStore.open(stocked.store_folder).shards()[1]
    flip(path)
    result = run("store", "verify", *["--json"] * as_json, code=1)
    reason = "damaged: its bytes do not hash to its name"
    if as_json:
        assert json.loads(result.stdout)["damaged"] == {path.name: reason}
    else:
        assert f"{path.name}  {reason}" in result.stdout.splitlines()
    assert last_line(result) == (
        "pipeline: 1 of 3 shards cannot be used. "
        "Run `pipeline extract --verify`, which makes just their rows again."
    )


def test_verify__missing(run: Run, stocked: Workspace) -> None:
    for path in FeatureStore.open(stocked.store_folder).shards():
        path.unlink()
    result = run("store", "verify", code=1)
    assert result.stdout == ""
    assert last_line(result) == (
        "pipeline: 5 images that cache/index.json counts as stored have no features "
        "(first: 0000.png). Run `pipeline extract`."
    )


def test_gc(run: Run, stocked: Workspace) -> None:
    index = stocked.index_file.read_bytes()
    said = run("store", "gc", "--dry-run").stdout
    assert said.startswith("would drop 1 row, keep 5 in 1 shard (before: 3), remove 0 damaged shards: about ")
    assert holds(stocked.store_folder, range(6))
    said = run("store", "gc").stdout
    assert said.startswith("dropped 1 row, kept 5 in 1 shard (before: 3), removed 0 damaged shards: ")
    assert said.endswith(" kB freed\n")
    assert holds(stocked.store_folder, range(5))
    assert stocked.index_file.read_bytes() == index
    assert json.loads(run("store", "gc", "--json").stdout)["bytes_freed"] == 0


def test_gc__held_by_another(run: Run, stocked: Workspace) -> None:
    with locked(stocked.store_folder):
        result = run("store", "gc", code=1)
    assert f"is being written by process {os.getpid()}" in last_line(result)


def test_import(run: Run, stocked: Workspace, other: Path) -> None:
    assert run("store", "import", str(other)).stdout == (
        "took in 4 rows in 2 shards; 1 shard had nothing new\n"
    )
    assert holds(stocked.store_folder, range(10))
    report = json.loads(run("store", "import", str(other), "--json").stdout)
    assert report == {"shards": 0, "rows": 0, "skipped": 3, "rejected": {}}


def test_import__bad_shard(run: Run, workspace: Workspace, other: Path) -> None:
    bad = FeatureStore.open(other).shards()[0]
    flip(bad)
    result = run("store", "import", str(other), code=1)
    assert f"{bad.name}  damaged: its bytes do not hash to its name" in result.stdout.splitlines()
    assert result.stdout.endswith("took in 4 rows in 2 shards; 0 shards had nothing new\n")
    assert last_line(result) == (
        f"pipeline: 1 shard of {other} cannot be used; the others were taken in. "
        f"`pipeline extract` computes what is missing."
    )


def test_import__another_identity(run: Run, stocked: Workspace, other: Path) -> None:
    shutil.rmtree(stocked.store_folder)
    made = FeatureStore.open(other).identity
    write_params(stocked.params_file, {"extract.storage": "float32"})
    FeatureStore.create(stocked.store_folder, replace(made, storage="float32"))
    result = run("store", "import", str(other), code=1)
    assert "differ: storage float32 against float16" in last_line(result)


def test_usage(run: Run, tmp_path: Path) -> None:
    assert "does not exist" in run("store", "import", str(tmp_path / "nowhere"), code=2).stderr
    assert "Missing argument 'FOLDER'" in run("store", "import", code=2).stderr
    known = "There are info, verify, gc, import."
    assert f"No such command 'clean'. {known}" in run("store", "clean", code=2).stderr
    assert "No such command 'verfy'. Did you mean 'verify'?" in run("store", "verfy", code=2).stderr
