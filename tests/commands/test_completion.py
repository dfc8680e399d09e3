"""What a shell is offered where it completes a command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from pipeline.cli import cli
from pipeline.edit_params import write_params
from pipeline.workspace import Workspace

Complete = Callable[..., list[tuple[str, str]]]
HEADS = ["linear", "logreg", "linear-svm", "knn"]


@pytest.fixture
def complete(workspace: Workspace) -> Complete:
    """Return kind and value of what is offered for the last of some words."""

    def offered(*words: str, root: str | None = None) -> list[tuple[str, str]]:
        *before, incomplete = words
        shell = ShellComplete(cli, {}, "pipeline", "_PIPELINE_COMPLETE")
        found = shell.get_completions(["--root", root or str(workspace.root), *before], incomplete)
        return [(item.type, item.value) for item in found]

    return offered


def plain(*names: str) -> list[tuple[str, str]]:
    return [("plain", name) for name in names]


def have_trained(workspace: Workspace, *heads: str) -> None:
    for head in heads:
        workspace.model_folder(head).mkdir(parents=True)
        (workspace.model_folder(head) / "model.json").write_text("{}")


def test_completion__of_commands(complete: Complete) -> None:
    assert ("plain", "train") in complete("")
    assert complete("do") == plain("doctor")


def test_completion__heads_to_train_are_those_of_the_parameters(
    complete: Complete, workspace: Workspace
) -> None:
    assert complete("train", "") == plain(*HEADS)
    assert complete("train", "li") == plain("linear", "linear-svm")
    write_params(workspace.params_file, {"heads": {"best": {"estimator": "ridge"}}, "evaluate.head": "best"})
    assert complete("train", "") == plain("best")


@pytest.mark.parametrize(
    "words", [("evaluate",), ("predict",), ("export",), ("report", "--head"), ("show", "--errors")]
)
def test_completion__heads_to_be_used_are_those_that_are_trained(
    complete: Complete, workspace: Workspace, words: tuple[str, ...]
) -> None:
    assert complete(*words, "") == []
    have_trained(workspace, "logreg", "linear-l2", "knn")
    (workspace.models_folder / ".knn.ab12.tmp").mkdir()
    (workspace.models_folder / "notes").mkdir()
    assert complete(*words, "") == plain("knn", "linear-l2", "logreg")
    assert complete(*words, "l") == plain("linear-l2", "logreg")


def test_completion__paths(complete: Complete) -> None:
    assert complete("predict", "models/") == [("dir", "models/")]
    assert complete("predict", "logreg", "hol") == [("file", "hol")]
    assert complete("predict", "logreg", "a.jpg", "hol") == [("file", "hol")]


@pytest.mark.parametrize("text", ["heads: [", "hesds: {}", "heads: {A: {estimator: knn}}"])
def test_completion__unreadable_parameters_offer_nothing(
    complete: Complete, workspace: Workspace, text: str
) -> None:
    workspace.params_file.write_text(text)
    assert complete("train", "") == []


def test_completion__outside_a_workspace(complete: Complete) -> None:
    assert complete("train", "", root="/nowhere") == []
    assert complete("evaluate", "", root="~nobody-of-that-name/x") == []


def test_completion__home_folder_as_it_is_typed(
    complete: Complete, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(workspace.root.parent))
    assert complete("train", "k", root=f"~/{workspace.root.name}") == plain("knn")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [(BashComplete, "plain,knn"), (ZshComplete, "plain\nknn\nknn"), (FishComplete, "plain,knn\tknn")],
)
def test_completion__in_the_words_of_each_shell(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, shell: type[ShellComplete], expected: str
) -> None:
    words = ["pipeline", "--root", str(workspace.root), "train", "k"]
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", "k" if shell is FishComplete else str(len(words) - 1))
    assert shell(cli, {}, "pipeline", "_PIPELINE_COMPLETE").complete() == expected


def test_completion__imports_nothing_heavy(workspace: Workspace) -> None:
    have_trained(workspace, "knn")
    code = """
import json, sys
from click.shell_completion import ShellComplete
from pipeline.cli import cli
shell = ShellComplete(cli, {}, "pipeline", "_PIPELINE_COMPLETE")
offered = [item.value for verb in ("train", "evaluate") for item in shell.get_completions([verb], "k")]
heavy = {"torch", "torchvision", "sklearn", "scipy", "h5py", "PIL", "numpy", "skops", "dvc", "rich"}
print(json.dumps([offered, sorted(heavy & sys.modules.keys())]))
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [["knn", "knn"], []]
