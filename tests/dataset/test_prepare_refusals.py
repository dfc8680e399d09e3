"""What `prepare` cannot use, and how it goes on after a stop."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.dataset import verdicts
from pipeline.dataset.prepare import prepare
from pipeline.errors import ManifestError, ParamsError, SourceError, SourceMissing
from pipeline.workspace import Workspace
from tests.dataset.preparing import fill, looked, make_workspace, png, settled, source

__all__ = ["looked", "make_workspace", "settled", "source"]  # fixtures

MakeWorkspace = Callable[..., Workspace]


@pytest.mark.parametrize("layout", ["nothing", "one class", "single image", "two copies", "all damaged"])
def test_what_nothing_can_be_learned_from(layout: str, tmp_path: Path, make_workspace: MakeWorkspace) -> None:
    fill(tmp_path / "good" / "a", range(9))
    fill(tmp_path / "good" / "b", range(10, 19))
    workspace = make_workspace(tmp_path / "good")
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    expected = {
        "nothing": r"bad: ",
        "one class": r"bad: one class only, 'a'; at least two are needed\. Expected one folder a class",
        "single image": r"a single usable image \(copies counted once\) in class 'b'.*remove the class",
        "two copies": r"bad: a single usable image",
        "all damaged": r"bad: none of 2 images can be used \(2 empty_file\)",
    }[layout]
    if layout == "all damaged":
        for label in "ab":
            (bad / label).mkdir()
            (bad / label / "1.png").touch()
    elif layout != "nothing":
        fill(bad / "a", range(9))
    if layout in ("single image", "two copies"):
        fill(bad / "b", range(50, 51))
    if layout == "two copies":
        shutil.copy(bad / "b" / "50.png", bad / "b" / "51.png")
    make_workspace(bad)
    with pytest.raises(SourceError, match=expected) as caught:
        prepare(workspace)
    assert "\n" not in str(caught.value)
    assert workspace.manifest_file.read_bytes() == before


def test_a_missing_source_leaves_the_manifest(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    source.rename(source.with_name("away"))
    with pytest.raises(SourceMissing):
        prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before


def test_a_class_without_training_images(tmp_path: Path, make_workspace: MakeWorkspace) -> None:
    fill(tmp_path / "source" / "train" / "a", range(5))
    fill(tmp_path / "source" / "train" / "b", range(10, 15))
    fill(tmp_path / "source" / "test" / "c", range(20, 25))
    with pytest.raises(SourceError, match="no training image of class 'c'"):
        prepare(make_workspace(tmp_path / "source"))


def test_a_limit_too_small_for_the_classes(source: Path, make_workspace: MakeWorkspace) -> None:
    with pytest.raises(ParamsError, match=r"dataset\.limit: 3 images are too few for 2 classes.*at least 4"):
        prepare(make_workspace(source, limit=3))


def test_a_malformed_manifest_is_not_replaced_unasked(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    text = workspace.manifest_file.read_text()
    workspace.manifest_file.write_text(text.replace("cat/3.png", "zebra", 1))
    with pytest.raises(ManifestError, match="--resplit"):
        prepare(workspace)
    assert "zebra" in workspace.manifest_file.read_text()
    assert prepare(workspace, resplit=True).added == 40
    assert workspace.manifest_file.read_text() == text


def test_an_interrupted_run_keeps_its_verdicts(
    source: Path, make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(source)
    real = verdicts.examine
    asked: list[int] = []

    def stop_half_way(files: list[Path], *, decode: bool = True) -> object:
        asked.append(len(files))
        for index, verdict in enumerate(real(files, decode=decode)):
            if index == 25 and len(asked) == 1:
                raise KeyboardInterrupt
            yield verdict

    monkeypatch.setattr(verdicts, "examine", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        prepare(workspace)
    assert not workspace.manifest_file.exists()
    assert prepare(workspace).usable == 40
    assert asked == [40, 15]


def test_failures_that_may_pass_are_looked_into_again(
    source: Path, make_workspace: MakeWorkspace, looked: list[tuple[str, bool]]
) -> None:
    (source / "cat" / "damaged.png").write_bytes(b"no image")
    gone = source / "cat" / "gone.png"
    gone.write_bytes(png(500))
    workspace = make_workspace(source)
    real = verdicts.examine

    def losing_one(files: list[Path], *, decode: bool = True) -> object:
        gone.rename(gone.with_suffix(".away"))
        try:
            yield from real(files, decode=decode)
        finally:
            gone.with_suffix(".away").rename(gone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "examine", losing_one)
        report = prepare(workspace)
    assert report.reasons == {"unsupported_format": 1, "vanished": 1}
    looked.clear()
    assert prepare(workspace).reasons == {"unsupported_format": 1}
    assert looked == [("gone.png", True)]


def test_a_run_without_news_loads_no_decoder(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    script = (
        "import sys; from pathlib import Path; import pipeline.files; pipeline.files._SETTLED_NS = 0\n"
        "from pipeline.workspace import Workspace; from pipeline.dataset.prepare import prepare\n"
        "prepare(Workspace(Path(sys.argv[1])))\n"
        "print([name for name in ('PIL.Image', 'torch', 'sklearn', 'h5py') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(workspace.root)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


def test_a_class_without_a_usable_image_is_named(
    source: Path, make_workspace: MakeWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "owl").mkdir()
    (source / "owl" / "1.jpg").write_bytes(b"not an image")
    report = prepare(make_workspace(source))
    assert "owl" not in report.counts
    assert "class 'owl' is left out: none of its images can be used (1 unsupported_format)" in (
        capsys.readouterr().err
    )


def test_a_source_that_is_not_named_replaces_nothing(source: Path, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(source)
    prepare(workspace)
    before = workspace.manifest_file.read_bytes()
    workspace.params_file.write_text("")
    with pytest.raises(ParamsError, match=r"params.yaml: dataset.source is missing. Name a folder"):
        prepare(workspace)
    assert workspace.manifest_file.read_bytes() == before
