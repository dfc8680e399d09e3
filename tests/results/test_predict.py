"""Predictions of single images: the same as in training, and never dependent on their company."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.errors import (
    DamagedShard,
    IdentityMismatch,
    ModelError,
    ParamsError,
    SourceError,
    SourceMissing,
)
from pipeline.features.extract import extract
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.results.predict import Prediction, predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.conftest import write_images

__all__ = ["finished", "finished_folder"]  # fixtures

Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Forty images in the store, and two heads trained on them."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    return workspace.root.parent / "photos"


@pytest.fixture
def known(photos: Path) -> list[str]:
    """Two images that the store holds."""
    return [str(photos / "cat" / "cat-000.png"), str(photos / "dog" / "dog-000.png")]


@pytest.fixture
def new(tmp_path: Path) -> list[str]:
    """Images that the store does not hold, more than go through the network at once."""
    write_images(tmp_path / "holiday", {"beach": 0, "city": 0, "food": 19}, size=36)
    return sorted(map(str, (tmp_path / "holiday" / "food").iterdir()))


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the network, batch by batch."""
    counts: list[int] = []
    original = Extractor.forward

    def forward(extractor: Extractor, pixels: Any) -> Any:
        counts.append(len(pixels))
        return original(extractor, pixels)

    monkeypatch.setattr(Extractor, "forward", forward)
    return counts


# --- where features come from


def test_stored_images__not_computed_again(
    workspace: Workspace, known: list[str], new: list[str], forwarded: list[int]
) -> None:
    assert [prediction.label for prediction in predict(workspace, "logreg", known)] == ["cat", "dog"]
    assert forwarded == []
    predict(workspace, "logreg", [known[0], new[0], known[1], new[1]])
    assert forwarded == [2]


def test_stored_images__wherever_they_lie(
    workspace: Workspace, photos: Path, tmp_path: Path, forwarded: list[int]
) -> None:
    shutil.copyfile(photos / "cat" / "cat-000.png", tmp_path / "elsewhere.jpeg")
    (copy,) = predict(workspace, "logreg", [str(tmp_path / "elsewhere.jpeg")])
    (original,) = predict(workspace, "logreg", [str(photos / "cat" / "cat-000.png")])
    assert copy.probabilities == original.probabilities
    assert forwarded == []


def test_stored_images__torch_is_not_imported(workspace: Workspace, photos: Path) -> None:
    code = (
        "import sys; from pipeline.cli import cli;"
        "cli(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    )
    arguments = ["--root", str(workspace.root), "predict", "logreg", str(photos)]
    arguments += ["--output", str(workspace.root / "labels.txt")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
def test_new_image__as_if_it_had_been_added(
    workspace: Workspace, photos: Path, new: list[str], head: str
) -> None:
    (before,) = predict(workspace, head, [new[3]])
    shutil.copyfile(new[3], photos / "dog" / "added.png")
    prepare(workspace)
    extract(workspace, Execution(batch_size=7))
    (row,) = [row for row in read_manifest(workspace.manifest_file).rows if row.path == "dog/added.png"]
    features = LabelledFeatures.open(workspace).store.read([RowKey(row.sha256)])
    model = model_folder.load(workspace.model_folder(head))
    stored = model.predict(features.astype(np.float32))
    assert before.label == stored.labels[0]
    if stored.probabilities is not None:
        assert before.probabilities == dict(
            zip(stored.classes, stored.probabilities[0].tolist(), strict=True)
        )
    assert predict(workspace, head, [new[3]]) == [before]


def test_probabilities_equal_those_of_the_evaluated_rows(workspace: Workspace, photos: Path) -> None:
    validation = LabelledFeatures.open(workspace).matrix("val")
    expected = model_folder.load(workspace.model_folder("logreg")).predict(validation.X)
    assert expected.probabilities is not None
    predictions = predict(workspace, "logreg", [str(photos / path) for path in validation.paths])
    for prediction, row in zip(predictions, expected.probabilities.tolist(), strict=True):
        assert prediction.probabilities == dict(zip(expected.classes, row, strict=True))


def test_without_a_store__the_same(workspace: Workspace, photos: Path, forwarded: list[int]) -> None:
    image = str(photos / "cat" / "cat-000.png")
    before = predict(workspace, "logreg", [image])
    shutil.rmtree(workspace.root / "cache")
    assert predict(workspace, "logreg", [image]) == before
    assert forwarded == [1]
    assert not (workspace.root / "cache").exists()


def test_store_of_another_identity__computed_and_left_alone(
    workspace: Workspace, photos: Path, forwarded: list[int]
) -> None:
    image = str(photos / "cat" / "cat-000.png")
    before = predict(workspace, "logreg", [image])
    description = workspace.store_folder / "store.json"
    other = description.read_text().replace('"resize": 32', '"resize": 48')
    description.write_text(other)
    assert predict(workspace, "logreg", [image]) == before
    assert forwarded == [1]
    assert description.read_text() == other


# --- independence


def test_alone_or_in_company__the_same_to_the_last_bit(
    workspace: Workspace, photos: Path, new: list[str]
) -> None:
    together = predict(workspace, "logreg", [*new, str(photos)])
    assert predict(workspace, "logreg", [str(photos), *reversed(new)]) == [
        *together[len(new) :], *reversed(together[: len(new)]),
    ]  # fmt: skip
    for number in (0, 16):  # the first of each batch
        assert predict(workspace, "logreg", [new[number]]) == [together[number]]


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
def test_alone_or_in_company__stored_images(workspace: Workspace, photos: Path, head: str) -> None:
    together = predict(workspace, head, [str(photos)])
    for number in (0, 7, 39):
        assert predict(workspace, head, [together[number].path]) == [together[number]]


def test_bad_neighbours_change_nothing(workspace: Workspace, new: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    bad = str(tmp_path / "text.jpg")
    first, wrong, second = predict(workspace, "logreg", [new[0], bad, new[1]])
    assert wrong == Prediction(bad, None, None, "unsupported_format")
    assert [first, second] == predict(workspace, "logreg", new[:2])


def test_probabilities__sorted_and_sum_to_one(workspace: Workspace, known: list[str]) -> None:
    for prediction in predict(workspace, "logreg", known):
        assert prediction.probabilities is not None
        values = list(prediction.probabilities.values())
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-12)
        assert next(iter(prediction.probabilities)) == prediction.label
    assert predict(workspace, "linear-svm", known[:1])[0].probabilities is None


# --- which files are meant


def test_files_folders_and_patterns__in_the_order_given(
    workspace: Workspace, photos: Path, new: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    given = [new[1], "photos/dog", "photos/*/*-00[01].png", new[0], new[1], "photos/cat/../cat/cat-002.png"]
    assert [prediction.path for prediction in predict(workspace, "logreg", given)] == [
        new[1],
        *(f"photos/dog/dog-{number:03}.png" for number in range(20)),
        *(f"photos/{label}/{label}-{number:03}.png" for label in ("cat", "dog") for number in (0, 1)),
        new[0],
        new[1],
        "photos/cat/../cat/cat-002.png",
    ]  # fmt: skip


def test_folder__any_depth_and_images_only(workspace: Workspace, photos: Path) -> None:
    folder = photos.parent / "mixed"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    image = photos / "cat" / "cat-000.png"
    for name in ("z.png", "a/y.PNG", "a/b/x.jpg", ".hidden/w.png", "._v.png", "notes.txt", "u.png.part"):
        shutil.copyfile(image, folder / name)
    (folder / "a" / "loop").symlink_to(folder)
    found = [Path(prediction.path) for prediction in predict(workspace, "logreg", [str(folder)])]
    assert [str(path.relative_to(folder)) for path in found] == ["a/b/x.jpg", "a/y.PNG", "z.png"]


def test_name_that_looks_like_a_pattern(workspace: Workspace, photos: Path) -> None:
    odd = photos.parent / "what [1]*?.png"
    shutil.copyfile(photos / "cat" / "cat-000.png", odd)
    assert [prediction.path for prediction in predict(workspace, "logreg", [str(odd)])] == [str(odd)]


def test_same_image_twice(workspace: Workspace, known: list[str]) -> None:
    first, second = predict(workspace, "logreg", [known[0], known[0]])
    assert first == second


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg: there is no such file or folder"),
        ("no*.jpg", r"no*.jpg: there is no such file or folder, and no file matches it"),
        ("", "an image's name is empty"),
        ("~nobody-of-this-name/a.jpg", "no such user"),
        ("a\nb.jpg", r"a\nb.jpg: there is no such file"),
    ],
)
def test_missing(workspace: Workspace, new: list[str], forwarded: list[int], given: str, words: str) -> None:
    with pytest.raises(SourceMissing) as error:
        predict(workspace, "logreg", [new[0], given])
    assert words in str(error.value)
    assert forwarded == []  # found out before any work


def test_folder_without_images(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: this folder holds no images"):
        predict(workspace, "logreg", [str(tmp_path / "empty")])


def test_files_that_are_no_images__listed_with_the_reason(
    workspace: Workspace, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    image = (photos / "cat" / "cat-000.png").read_bytes()
    (folder / "cut.png").write_bytes(image[: len(image) // 2])
    (folder / "empty.jpg").touch()
    (folder / "good.png").write_bytes(image)
    (folder / "gone.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for a writer
    (folder / "text.jpg").write_text("no image")
    expected = {
        "cut.png": "truncated",
        "empty.jpg": "empty_file",
        "gone.png": "vanished",
        "good.png": None,
        "pipe.jpg": "not_regular",
        "text.jpg": "unsupported_format",
    }
    in_folder = predict(workspace, "logreg", [str(folder)])
    assert {Path(found.path).name: found.error for found in in_folder} == expected
    assert predict(workspace, "logreg", [str(folder / name) for name in expected]) == in_folder
    assert predict(workspace, "logreg", [str(folder / "*")]) == in_folder
    assert [found.label for found in in_folder if found.error] == [None] * 5


# --- what the head demands


@pytest.fixture
def demanding(workspace: Workspace, known: list[str]) -> tuple[Workspace, dict[str, float]]:
    """A linear SVM that is sure of one of the two known images, and the confidence in each."""
    train(workspace, "linear-svm", changes={"calibrate": True})
    confidence = {
        found.path: max(found.probabilities.values())
        for found in predict(workspace, "linear-svm", known)
        if found.probabilities
    }
    threshold = sum(confidence.values()) / 2
    train(workspace, "linear-svm", changes={"calibrate": True, "unsure_below": threshold})
    return workspace, confidence


def test_unsure__below_the_probability_that_is_demanded(
    demanding: tuple[Workspace, dict[str, float]], known: list[str]
) -> None:
    workspace, confidence = demanding
    doubted, trusted = sorted(confidence, key=confidence.__getitem__)
    found = {prediction.path: prediction for prediction in predict(workspace, "linear-svm", known)}
    assert (found[doubted].label, found[doubted].best) == ("unsure", Path(doubted).parent.name)
    assert (found[trusted].label, found[trusted].best) == (Path(trusted).parent.name, None)
    for path in known:
        probabilities = found[path].probabilities
        assert probabilities is not None
        assert max(probabilities.values()) == confidence[path]


def test_unsure__in_json(run: Run, demanding: tuple[Workspace, dict[str, float]], known: list[str]) -> None:
    found = json.loads(run("predict", "linear-svm", *known, "--format", "json").stdout)
    assert sorted(prediction["label"] == "unsure" for prediction in found) == [False, True]
    for prediction in found:
        best = next(iter(prediction["probabilities"]))
        assert prediction.get("best", prediction["label"]) == best


def test_pooled_head__new_and_stored_images_alike(
    workspace: Workspace, known: list[str], new: list[str]
) -> None:
    train(workspace, "logreg", changes={"pooling": "avg", "normalize": "standardize"})
    together = predict(workspace, "logreg", [*known, *new])
    assert [prediction.label for prediction in together[:2]] == ["cat", "dog"]
    assert predict(workspace, "logreg", [new[3]]) == [together[5]]


# --- models


def test_model_by_path(workspace: Workspace, known: list[str], tmp_path: Path) -> None:
    moved = tmp_path / "from a friend"
    shutil.copytree(workspace.model_folder("logreg"), moved)
    assert predict(workspace, str(moved), known[:1]) == predict(workspace, "logreg", known[:1])
    assert predict(workspace, f"{moved}/", known[:1]) == predict(workspace, "logreg", known[:1])


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("knn", ModelError, "models/knn: no such model"),
        ("./nowhere", ModelError, "nowhere: no such model"),
        ("Logreg", ParamsError, "head 'Logreg'"),
        ("..", ParamsError, "head '..'"),
    ],
)
def test_no_such_model(
    workspace: Workspace, known: list[str], model: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        predict(workspace, model, known[:1])
    assert words in str(raised.value)


def test_damaged_model__named(workspace: Workspace, known: list[str]) -> None:
    folder = workspace.model_folder("logreg")
    (weights,) = folder.glob("head.*")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError) as error:
        predict(workspace, "logreg", known[:1])
    assert f"{weights} is damaged" in str(error.value)
    assert "`pipeline train logreg`" in str(error.value)


def test_model_of_another_identity__refused_with_both(
    workspace: Workspace, known: list[str], forwarded: list[int]
) -> None:
    write_params(workspace.params_file, {"extract.image_size": 48, "extract.resize": 64})
    with pytest.raises(IdentityMismatch) as error:
        predict(workspace, "logreg", known[:1])
    said = str(error.value)
    assert str(workspace.params_file) in said
    assert str(workspace.model_folder("logreg")) in said
    assert "resize 64 against 32; image_size 48 against 32" in said
    assert "`pipeline train logreg`" in said
    assert forwarded == []


def test_damaged_shard__named(workspace: Workspace, photos: Path) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    image = str(photos / "cat" / "cat-000.png")
    with pytest.raises(DamagedShard, match=shard.name):
        predict(workspace, "logreg", [image])


# --- the command


def test_command__formats(run: Run, known: list[str]) -> None:
    objects = json.loads(run("predict", "logreg", *known[:2], "--format", "json").stdout)
    assert [list(found) for found in objects] == [["path", "label", "probabilities"]] * 2
    header, *lines = run("predict", "logreg", *known[:2], "--format", "csv").stdout.splitlines()
    assert header == "path,label,error,p(cat),p(dog)"
    assert [line.split(",")[:2] for line in lines] == [[found["path"], found["label"]] for found in objects]
    top = json.loads(run("predict", "logreg", known[0], "--format", "json", "--top", "1").stdout)
    assert list(top[0]["probabilities"]) == [objects[0]["label"]]
    assert known[0] in run("predict", "logreg", known[0]).stdout


def test_command__files_that_cannot_be_used(run: Run, known: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    result = run("predict", "logreg", known[0], str(tmp_path / "text.jpg"), "--format", "json", code=1)
    assert [found.get("error") for found in json.loads(result.stdout)] == [None, "unsupported_format"]
    assert result.stderr.splitlines()[-1] == (
        "pipeline: 1 of 2 files could not be used; the reasons are listed."
    )


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_command__names_that_are_not_utf8(run: Run, photos: Path, tmp_path: Path, form: str) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")  # noqa: PTH118 -- bytes
    try:
        shutil.copyfile(os.fsencode(photos / "cat" / "cat-000.png"), name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    said = run("predict", "logreg", os.fsdecode(name), "--format", form).stdout
    assert r"caf\udce9.png" in said
    out = tmp_path / "out"
    run("predict", "logreg", os.fsdecode(name), "--format", form, "--output", str(out))
    assert out.read_text("utf-8") == said
    if form == "json":
        assert os.fsencode(json.loads(said)[0]["path"]) == name


def test_command__output_is_replaced_whole(
    run: Run, known: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new folder" / "labels.json"
    result = run("predict", "logreg", known[0], "--format", "json", "--output", str(out))
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"wrote 1 predictions to {out}"
    assert json.loads(out.read_bytes())[0]["path"] == known[0]
    before = out.read_bytes()

    run("predict", "logreg", "nowhere.jpg", "--output", str(out), code=1)
    monkeypatch.setattr("pipeline.files.sync", _fail)
    run("predict", "logreg", known[0], "--output", str(out), code=1)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def _fail(_: Path) -> None:
    raise OSError(5, "Input/output error")


def test_command__output_that_cannot_be_written_is_found_out_first(
    run: Run, new: list[str], tmp_path: Path, forwarded: list[int]
) -> None:
    (tmp_path / "file").touch()
    result = run("predict", "logreg", new[0], "--output", str(tmp_path / "file" / "labels.csv"), code=1)
    assert result.stderr.startswith(f"pipeline: {tmp_path / 'file'}")
    assert result.stderr.count("\n") == 1
    os.mkfifo(tmp_path / "pipe")
    for special in (os.devnull, str(tmp_path / "pipe")):
        result = run("predict", "logreg", new[0], "--output", special, code=2)
        assert "--output: expected a regular file" in result.stderr
    assert Path(os.devnull).is_char_device()
    assert (tmp_path / "pipe").is_fifo()
    assert forwarded == []


def test_store_opens_once(workspace: Workspace, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images there are: its catalogue is read from every shard."""
    opened: list[Path] = []
    original = FeatureStore.open.__func__  # type: ignore[attr-defined]

    def open_store(cls: type[FeatureStore], folder: Path, identity: Any) -> FeatureStore:
        opened.append(folder)
        store: FeatureStore = original(cls, folder, identity)
        return store

    monkeypatch.setattr(FeatureStore, "open", classmethod(open_store))
    monkeypatch.setattr("pipeline.results.predict._CHUNK", 8)
    assert len(predict(workspace, "logreg", [str(photos)])) == 40
    assert opened == [workspace.store_folder]


@pytest.mark.parametrize(("name", "start"), [("a.json", "["), ("a.CSV", "path,label"), ("a.txt", "image ")])
def test_output__is_written_as_its_name_ends(
    run: Callable[..., Result], photos: Path, tmp_path: Path, name: str, start: str
) -> None:
    run("predict", "logreg", str(next(photos.rglob("*.png"))), "--output", str(tmp_path / name))
    assert (tmp_path / name).read_text().startswith(start)


def test_output__whose_name_says_nothing_is_refused(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    photo, output = str(next(photos.rglob("*.png"))), tmp_path / "a.xls"
    said = run("predict", "logreg", photo, "--output", str(output), code=2).stderr
    assert "--output: what .xls is to hold is not known. Name a file that ends in .json, .csv, .txt" in said
    assert not output.exists()
    run("predict", "logreg", photo, "--output", str(output), "--format", "csv")
    assert output.read_text().startswith("path,label")
