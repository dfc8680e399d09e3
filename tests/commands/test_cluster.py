"""Commands whose work a Dask cluster does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.workspace import Workspace
from tests.clusters import scheduler
from tests.conftest import write_images

Run = Callable[..., Result]

_COMMANDS = ("prepare", "extract", "sweep")


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scheduler", "tcp://127.0.0.1:1", "--workers-on-dask", "2"), "are two clusters: give one"),
        (("--worker-resource", "GPU"), "--worker-resource is of no use without --scheduler"),
        (("--tls-key", __file__), "--tls-key is of no use without --scheduler"),
    ],
)
def test_options_that_do_not_go_together(
    run: Run, command: str, options: tuple[str, ...], words: str, workspace: Workspace
) -> None:
    assert words in run(command, *options, code=2).output
    assert not workspace.manifest_file.exists()


def test_a_dry_run_is_of_this_machine(run: Run) -> None:
    assert "give it without a cluster" in run("extract", "--dry-run", "--workers-on-dask", "2", code=2).output


def test_stages_on_a_cluster_leave_what_they_leave_on_one_machine(
    run: Run, workspace: Workspace, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", {"cat": 20, "dog": 20, "owl": 9})
    (tmp_path / "photos" / "cat" / "damaged.png").write_bytes(b"\x89PNG")
    sweep = ("sweep", "-e", "forest", "-e", "logreg", "--pooling", "avg", "--normalize", "l2", "--folds", "3")
    files = (workspace.manifest_file, workspace.index_file, workspace.sweep_file)
    found = []
    with scheduler(tmp_path) as dask:
        dask.worker()
        for on in ((), ("--scheduler", dask.address)):
            for command in (("prepare",), ("extract",), sweep):
                result = run(*command, *on)
                assert ("dashboard http://127.0.0.1:" in result.stderr) == bool(on)
            found.append([_without_seconds(file) for file in files])
            for file in (*files, workspace.image_stat_cache, *workspace.store_folder.glob("*.h5")):
                file.unlink(missing_ok=True)
    assert found[0] == found[1]
    assert b"damaged.png" in found[0][0]


def test_a_cluster_of_this_machine(run: Run) -> None:
    run("prepare")
    result = run("extract", "--workers-on-dask", "1", "--json")
    assert json.loads(result.stdout)["computed"] == 40
    assert "1 worker at tcp://127.0.0.1:" in result.stderr


def _without_seconds(file: Path) -> bytes:
    """Return what a file says, but how long things took."""
    if file.name != "sweep.json":
        return file.read_bytes()
    board = json.loads(file.read_text())
    for line in board["lines"]:
        line["fit_seconds"] = 0
    return json.dumps(board).encode()
