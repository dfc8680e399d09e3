"""What all commands share: help, exit codes, errors, and being stopped."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import pipeline.commands
from pipeline.cli import COMMANDS, cli
from pipeline.errors import WorkspaceError
from pipeline.workspace import Workspace
from tests.commands.programs import MAIN

Run = Callable[..., Result]


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


# --- help


def test_every_module_of_the_room_is_a_command() -> None:
    (folder,) = pipeline.commands.__path__
    modules = [path.stem.replace("_", "-") for path in Path(folder).glob("[!_]*.py")]
    assert sorted(COMMANDS) == sorted(modules)


def test_help__lists_every_command_with_what_it_does() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:\n")[2].splitlines()[: len(COMMANDS)]
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(len(line.split()) > 1 and line.endswith(".") for line in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_help__of_a_command(name: str) -> None:
    for flag in ("--help", "-h"):
        result = CliRunner().invoke(cli, [name, flag])
        assert result.exit_code == 0
        assert f"Example:  pipeline {name} " in result.stdout
    for parameter in command(name).params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None)


@pytest.mark.parametrize("name", COMMANDS)
def test_help__example_is_a_valid_command_line(name: str) -> None:
    epilog = command(name).epilog
    assert epilog is not None
    program, called, *arguments = shlex.split(epilog.removeprefix("Example:"))
    assert (program, called) == ("pipeline", name)
    with click.Context(cli, obj=Path()) as parent:
        command(name).make_context(name, arguments, parent)


def test_help__imports_nothing_heavy() -> None:
    code = f"""
import sys
from pipeline.cli import cli
for arguments in [["--help"], *([name, "--help"] for name in {COMMANDS!r})]:
    try:
        cli(arguments)
    except SystemExit as end:
        assert end.code == 0
heavy = {{"torch", "torchvision", "sklearn", "scipy", "h5py", "PIL", "numpy", "skops", "dvc", "rich"}}
print("imported:", sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_commands_are_imported_when_they_are_asked_for() -> None:
    code = """
import sys
from pipeline.cli import cli
before = [name for name in sys.modules if name.startswith("pipeline.commands.")]
try:
    cli(["scores", "--help"])
except SystemExit:
    print(before, [name for name in sys.modules if name.startswith("pipeline.commands.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] ['pipeline.commands.scores']"


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.stdout) == (
        0,
        f"pipeline, version {version('feature-cache-pipeline')}\n",
    )


# --- quiet


def test_quiet__results_and_errors_only(run: Run, workspace: Workspace) -> None:
    (workspace.root.parent / "photos" / "empty").mkdir()  # something to be warned of
    loud = run("prepare")
    assert "warning: class folders without images: empty" in loud.stderr
    workspace.manifest_file.unlink()
    quiet = run("--quiet", "prepare")
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    assert run("-q", "train", "nobody", code=1).stderr.startswith("pipeline: ")
    assert "warning: " in run("prepare").stderr  # the next command speaks again


# --- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["frobnicate"], "No such command 'frobnicate'. `pipeline --help` lists them.\n"),
        (["gc"], "No such command 'gc'. Did you mean 'store gc'?"),
        (["--frobnicate"], "No such option"),
        (["train"], "Missing argument 'HEAD'"),
        (["predict", "logreg"], "Missing argument 'IMAGE...'"),
        (["extract", "--device", "abacus"], "'abacus' is not one of 'auto', 'cuda', 'mps', 'cpu'"),
        (["extract", "--batch-size", "0"], "0 is not in the range"),
        (["extract", "--workers", "many"], "'many' is not a valid integer"),
        (["evaluate", "logreg", "--split", "train"], "'train' is not one of 'val', 'test'"),
        (["prepare", "--limit", "some"], "expected a whole number, or `all`"),
        (["prepare", "--limit", "-5"], "expected a whole number, or `all`"),
        (["predict", "logreg", "a.jpg", "--top", "0"], "0 is not in the range"),
        (["predict", "logreg", "a.jpg", "--format", "xml"], "'xml' is not one of"),
        (["predict", "logreg", "a.jpg", "--output", "."], "is a directory"),
        (["summary", "--classes", "1"], "1 is not in the range"),
    ],
)
def test_usage_error(run: Run, arguments: list[str], words: str) -> None:
    result = run(*arguments, code=2)
    assert result.stderr.startswith("Usage: pipeline ")
    assert words in result.stderr
    assert result.stdout == ""


def test_no_command__shows_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_error__is_one_line_on_stderr(run: Run, tmp_path: Path) -> None:
    result = run("--root", str(tmp_path / "a\nb\x1b[2J"), "scores", code=1)
    assert result.stdout == ""
    assert result.stderr.startswith(f"pipeline: {tmp_path}/a\\nb\\x1b[2J: not a workspace")
    assert result.stderr.count("\n") == 1


def test_error__debug_raises(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--debug", "--root", str(tmp_path), "scores"])
    assert isinstance(result.exception, WorkspaceError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "x.h5"),
            "x.h5: No space left on device. Free some",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a\nb"), "a\\nb: Permission denied. Check the"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system. The file system"),
        (OSError("no number"), "no number."),
    ],
)
def test_error__of_the_operating_system(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.results.scores.scores", fail)
    result = run("scores", code=1)
    assert result.stderr.startswith(f"pipeline: {line}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("debug", [False, True])
def test_error__unforeseen(workspace: Workspace, debug: bool) -> None:
    broken = (
        "import pipeline.results.scores as room\n"
        "def fail(_): raise ZeroDivisionError('a\\nb')\n"
        "room.scores = fail\n"
    )
    arguments = ["--debug"] * debug + ["--root", str(workspace.root), "scores"]
    done = subprocess.run(
        [sys.executable, "-c", broken + MAIN[-1], *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    if debug:
        assert done.stderr.startswith("Traceback")
    else:
        assert done.stderr.startswith("pipeline: unexpected ZeroDivisionError: a\\nb. `pipeline --debug")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["scores"]])
def test_a_reader_that_has_seen_enough(workspace: Workspace, arguments: list[str]) -> None:
    """As in `pipeline … | head`: the pipe is closed before the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*MAIN, "--root", str(workspace.root), *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
