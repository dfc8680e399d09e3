"""`pipeline predict`: forms of output, and where they go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.features.store import FeatureStore
from pipeline.results.predict import predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.predictions import forwarded, known, new, photos, workspace

__all__ = ["finished", "finished_folder", "forwarded", "known", "new", "photos", "workspace"]  # fixtures

Run = Callable[..., Result]


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


def test_command__output_over_an_image_is_refused(run: Run, known: list[str]) -> None:
    before = Path(known[0]).read_bytes()
    out = ("--format", "json", "--output", known[0])
    told = run("predict", "logreg", *known[:2], *out, code=2).stderr
    assert "is one of the images, which are never changed" in told
    assert Path(known[0]).read_bytes() == before


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
