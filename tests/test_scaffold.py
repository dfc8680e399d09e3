from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.errors import ParamsError, WorkspaceError
from pipeline.params import STAGE_VERSIONS, Params, read_params
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace, check_head_name

FILES = [".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"]


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_create_workspace__writes_everything(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er"
    assert sorted(create_workspace(root)) == FILES
    assert files_in(root) == FILES
    params = read_params(Workspace(root).params_file)
    assert params.versions == STAGE_VERSIONS
    assert params.dataset.source == "digits"
    assert params.extract == Params().extract
    assert {"linear", "logreg", "linear-svm", "knn"} <= set(params.heads)
    assert params.evaluate.head in params.heads


def test_create_workspace__source_is_written_with_its_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    create_workspace(Path("workspace"), "photos")
    params = read_params(tmp_path / "workspace" / "params.yaml")
    assert params.dataset.source == "../photos"
    assert params.dataset.limit is None
    assert (
        "# A class-balanced sample of so many images; null takes all."
        in Path("workspace/params.yaml").read_text()
    )


def test_create_workspace__keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    assert ".gitignore" not in create_workspace(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    assert files_in(tmp_path) == sorted([*FILES, "photo.jpg"])


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_create_workspace__already_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# mine\n")
    with pytest.raises(WorkspaceError) as caught:
        create_workspace(tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path} already holds {name}: choose another folder, or change the"
    )
    assert f"pipeline --root {tmp_path} prepare --source" in str(caught.value)
    assert files_in(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "# mine\n"


def test_create_workspace__file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a\x1b").write_text("x")
    with pytest.raises(WorkspaceError, match=r"a\\x1b is a file: name a folder"):
        create_workspace(tmp_path / "a\x1b")


@pytest.mark.parametrize("source", ["", "~nobody-of-that-name/photos"])
def test_create_workspace__unusable_source_writes_nothing(tmp_path: Path, source: str) -> None:
    with pytest.raises(ParamsError, match=r"^--source"):
        create_workspace(tmp_path / "workspace", source)
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("in_git", [False, True])
def test_create_workspace__dvc_knows_whether_there_is_git(tmp_path: Path, in_git: bool) -> None:
    root = tmp_path / "repository" / "workspace"
    if in_git:
        root.parent.mkdir()
        subprocess.run(["git", "init", "--quiet", str(root.parent)], check=True)
    create_workspace(root)
    config = (root / ".dvc" / "config").read_text()
    assert ("no_scm = true" in config) is not in_git
    assert "analytics = false" in config
    assert "check_update = false" in config


def test_workspace__not_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError) as caught:
        Workspace(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: not a workspace (no params.yaml here). "
        f"Make one with `pipeline init {tmp_path}`, or name another with `pipeline --root DIR …`."
    )


def test_workspace__head_names_never_leave_their_folders(tmp_path: Path) -> None:
    create_workspace(tmp_path)
    workspace = Workspace(tmp_path)
    assert workspace.model_folder("a-1_b") == tmp_path / "models" / "a-1_b"
    for name in ("../x", "a/b", "A", "", "a\n", ".", "1a", "a b", "a;b", "a.b"):
        for place in (
            workspace.model_folder,
            lambda head: workspace.metrics_file(head, "val"),
            lambda head: workspace.confusion_file(head, "val"),
            check_head_name,
        ):
            with pytest.raises(ParamsError, match="a head's name is a lower-case letter"):
                place(name)
