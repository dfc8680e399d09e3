"""`pipeline doctor`, as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.workspace import Workspace
from tests.commands.conftest import tree

Run = Callable[..., Result]


def test_doctor__of_a_new_workspace(run: Run, workspace: Workspace) -> None:
    before = tree(workspace.root)
    said = run("doctor").stdout
    assert tree(workspace.root) == before
    lines = said.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        check["status"] for check in json.loads(run("doctor", "--json").stdout)
    ]
    place = next(number for number, line in enumerate(lines) if "no manifest yet" in line)
    assert lines[place].startswith("warn  images ")
    assert lines[place + 1].strip() == "→ pipeline prepare"
    assert max(map(len, lines)) <= 120


def test_doctor__fails_where_something_does_not_work(run: Run, workspace: Workspace) -> None:
    workspace.params_file.write_text("seed: \x1b[31m\n")
    result = run("doctor", code=1)
    assert "fail  params.yaml " in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""
    checks = json.loads(run("doctor", "--json", code=1).stdout)
    assert [check["name"] for check in checks if check["status"] == "fail"] == ["params.yaml"]


def test_doctor__outside_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = CliRunner().invoke(cli, ["--root", str(tmp_path / "no" / "where"), "doctor", "--json"])
    assert result.exit_code == 0
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["workspace"]["found"] == f"none in {tmp_path / 'no' / 'where'}"
    assert checks["weights"]["status"] == "warn"
    assert {"python", "packages", "device", "memory", "backend", "disk"} <= set(checks)
    assert list(tmp_path.iterdir()) == []


def doctor_without(workspace: Workspace, module: str) -> subprocess.CompletedProcess[str]:
    """Look where a module cannot be imported, and say at the end whether torch was."""
    code = f"""
import sys
sys.modules[{module!r}] = None
from pipeline.cli import cli
try:
    cli(["doctor"])
finally:
    print("torch" in sys.modules)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "line"),
    [("numpy", "fail  all else "), ("h5py", "fail  all else "), ("ruamel.yaml", "fail  params.yaml ")],
)
def test_doctor__of_an_installation_that_is_broken(workspace: Workspace, module: str, line: str) -> None:
    done = doctor_without(workspace, module)
    assert (done.returncode, done.stderr) == (1, "")
    assert line in done.stdout
    assert "ok    python " in done.stdout


def test_doctor__does_not_wait_for_torch_where_there_is_no_gpu(workspace: Workspace) -> None:
    from pipeline import gpu

    if gpu.may_be_here():
        pytest.skip("here torch has to be asked for its devices")
    done = doctor_without(workspace, "no_such_module")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "False"
