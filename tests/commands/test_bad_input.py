"""Bad input: one line that names the thing and the remedy, exit code 1, nothing lost or half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.commands.workspaces import photos, workspace
from tests.conftest import write_images

__all__ = ["photos", "workspace"]  # fixtures

Fails = Callable[..., str]
Run = Callable[..., Result]


# --- the source


def test_prepare__empty_source(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = fails("prepare", "--source", str(tmp_path / "empty"))
    assert "empty: no images found" in error
    assert "one folder a class" in error or "a folder for each class" in error


def test_prepare__emptied_source(fails: Fails, photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()
    assert "photos: no images found" in fails("prepare")


def test_prepare__one_class_only(fails: Fails, photos: Path) -> None:
    shutil.rmtree(photos / "dog")
    error = fails("prepare")
    assert "one class only, 'cat'" in error
    assert "at least two are needed" in error


def test_prepare__class_with_one_image(fails: Fails, photos: Path) -> None:
    write_images(photos, {"cat": 0, "dog": 0, "owl": 1})
    error = fails("prepare")
    assert "a single usable image (copies counted once) in class 'owl'" in error
    assert "Add images, or remove the class." in error


def test_prepare__class_with_one_image_and_a_copy_of_it(fails: Fails, photos: Path) -> None:
    write_images(photos, {"cat": 0, "dog": 0, "owl": 1})
    shutil.copyfile(photos / "owl" / "owl-000.png", photos / "owl" / "copy.png")
    assert "in class 'owl'" in fails("prepare")


def test_prepare__none_can_be_decoded(fails: Fails, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        (tmp_path / "texts" / label / "a.jpg").write_text("no image")
    error = fails("prepare", "--source", str(tmp_path / "texts"))
    assert "none of 2 images can be used (2 unsupported_format)" in error


def test_prepare__source_not_there(fails: Fails, tmp_path: Path) -> None:
    error = fails("prepare", "--source", str(tmp_path / "nowhere"))
    assert "nowhere: no such folder or archive" in error
    assert "`pipeline prepare --source`" in error


def test_prepare__sample_too_small_for_the_classes(fails: Fails) -> None:
    error = fails("prepare", "--limit", "3")
    assert "dataset.limit: 3 images are too few for 2 classes. Expected at least 4" in error


def test_prepare__unreadable_folder(workspace: Workspace, fails: Fails, photos: Path) -> None:
    (photos / "dog").chmod(0)
    try:
        if os.geteuid() != 0:
            error = fails("prepare")
        elif shutil.which("setpriv"):  # root reads everything, unless it gives its capabilities away
            before = tree(workspace.root)
            error = _without_capabilities("--root", str(workspace.root), "prepare")
            assert tree(workspace.root) == before
        else:
            pytest.skip("root reads every folder, and there is no setpriv to give that up")
    finally:
        (photos / "dog").chmod(0o755)
    assert f"{Path('photos') / 'dog'}: this folder cannot be read (Permission denied)" in error
    assert "`chmod u+rx`" in error


def _without_capabilities(*arguments: str) -> str:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    give_up = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    done = subprocess.run([*give_up, *command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    return done.stderr


def test_extract__source_gone_before_the_features_were_made(
    workspace: Workspace, fails: Fails, photos: Path
) -> None:
    for shard in workspace.store_folder.glob("*.h5"):
        shard.unlink()
    shutil.rmtree(photos)
    error = fails("extract")
    assert "photos: the folder of the images is not there" in error
    assert "`pipeline prepare`" in error


# --- heads and parameters


UNKNOWN = {
    "no such head": (["train", "logrge"], "head 'logrge'", "Did you mean 'logreg'?"),
    "bad name": (["train", "Logreg"], "head 'Logreg'", "a lower-case letter"),
    "way out": (["train", "../logreg"], "head '../logreg'", "a lower-case letter"),
    "no such parameter": (["train", "logreg", "--set", "c=1"], "no parameter 'c'", "It has"),
    "no value": (["train", "logreg", "--set", "C"], "--set C", "expected KEY=VALUE"),
    "bad value": (["train", "logreg", "--set", "C=-1"], "'C' parameter", "in the range (0.0, inf]"),
    "bad type": (["train", "logreg", "--set", "C=x"], "'C' parameter", "Got 'x'"),
    "name taken": (["train", "logreg", "--name", "knn"], "--name knn", "Choose another"),
    "never trained": (["evaluate", "knn"], "models/knn: no such model", "`pipeline train knn`"),
    "no such model": (["predict", "knn", "a.jpg"], "models/knn: no such model", "`pipeline train knn`"),
    "mistyped model": (["evaluate", "logrge"], "models/logrge: no such model", "Did you mean 'logreg'?"),
    "swapped": (
        ["predict", __file__, "logreg"],
        f"{__file__} is a file, and no model's folder",
        "MODEL comes first",
    ),
    "too many neighbours": (["train", "knn", "--set", "n_neighbors=99"], "n_neighbors", "knn"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_head_or_parameter(fails: Fails, case: str) -> None:
    arguments, names, remedy = UNKNOWN[case]
    error = fails(*arguments)
    assert names in error
    assert remedy in error


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("extract.imagesize", 32, "extract.imagesize: unknown key"),
        ("extract.weihgts", "random", "Did you mean 'weights'?"),
        ("dataset.limit", "ten", "dataset.limit: expected a whole number, found 'ten'"),
        ("heads.logreg.estimator", 3, "heads.logreg.estimator: expected text, found 3"),
        ("dataset.split.train", 0.9, "dataset.split: expected three shares"),
        ("extract.precision", "double", "extract.precision: expected one of half, float32"),
    ],
)
def test_params__wrong_key_or_value(
    workspace: Workspace, fails: Fails, key: str, value: object, words: str
) -> None:
    _set_unchecked(workspace.params_file, key, value)
    for command in (["prepare"], ["extract"], ["train", "logreg"], ["summary"]):
        error = fails(*command)
        assert "params.yaml" in error
        assert words in error


def _set_unchecked(params_file: Path, key: str, value: object) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    document = yaml.load(params_file)
    *parents, last = key.split(".")
    section = document
    for parent in parents:
        section = section[parent]
    section[last] = value
    yaml.dump(document, params_file)


def test_params__not_yaml(workspace: Workspace, fails: Fails) -> None:
    workspace.params_file.write_text("heads: [}")
    assert "params.yaml: not valid YAML" in fails("train", "logreg")


def test_not_a_workspace(run: Run, tmp_path: Path) -> None:
    for command in (["prepare"], ["extract"], ["scores"], ["predict", "logreg", "a.jpg"]):
        result = run("--root", str(tmp_path / "elsewhere"), *command, code=1)
        assert "elsewhere: not a workspace" in result.stderr
        assert "`pipeline init " in result.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_init__folder_in_use(workspace: Workspace, fails: Fails) -> None:
    error = fails("init", str(workspace.root))
    assert "already holds params.yaml and dvc.yaml" in error
    assert "choose another folder" in error
