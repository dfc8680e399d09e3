"""`pipeline show`: real pictures, under names that are none."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from pipeline.results.tiles import SIDE
from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.conftest import write_images

Run = Callable[..., Result]
HOSTILE = ("line\nbreak.png", "bidi\u202egnp.png", "犬と猫.png", "%n%s{0}.png", "a" * 200 + ".png")


def pixels_of(sheet: Path) -> npt.NDArray[np.int64]:
    """Every pixel of a sheet, shape (n, 3)."""
    with Image.open(sheet) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).reshape(-1, 3).astype(np.int64)


def blue_tiles(sheet: Path) -> int:
    """How many pictures are blue, as the cats of `write_images` are, and the dogs are not."""
    red, _, blue = pixels_of(sheet).T
    return round(int((blue - red > 60).sum()) / SIDE**2)


def grey_tiles(sheet: Path) -> int:
    """How many tiles have no picture."""
    grey = int((pixels_of(sheet) == (0xD5, 0xD7, 0xDA)).all(axis=1).sum())
    return math.ceil(grey / SIDE**2)  # the reason stands on it


def test_show__draws_what_was_prepared(run: Run, workspace: Workspace) -> None:
    run("prepare")
    sheet = workspace.root / "reports" / "contact-sheet.png"
    said = run("show", "-n", "6").stdout
    assert said == f"{sheet}: the first 6 of 34 images of train and val\n"
    assert blue_tiles(sheet) == 3
    run("show", "--label", "dog", "-n", "6")
    assert blue_tiles(sheet) == 0


def test_show__hostile_names(run: Run, workspace: Workspace, source: Path) -> None:
    for number, name in enumerate(HOSTILE):
        (source / "cat" / f"cat-{number:03}.png").rename(source / "cat" / name)
    (source / "dog").rename(source / "<script>\x1b[31m")
    run("prepare")
    said = run("show", "--label", "<script>\x1b[31m", "-n", "1000").stdout
    assert said.endswith(": 17 images of train and val, <script>\\x1b[31m\n")
    run("show", "-n", "1000")


def test_show__images_that_are_gone_damaged_or_others_are_said_so(
    run: Run, workspace: Workspace, source: Path
) -> None:
    run("prepare")
    sheet = workspace.root / "reports" / "contact-sheet.png"
    run("show")
    assert (blue_tiles(sheet), grey_tiles(sheet)) == (12, 0)
    for path in sorted((source / "cat").iterdir()):
        path.write_bytes(b"no image")
    write_images(source, {"bird": 0, "dog": 1}, size=50)
    before = tree(workspace.root)
    run("show")
    assert (blue_tiles(sheet), grey_tiles(sheet)) == (0, 13)
    after = tree(workspace.root)
    assert {path for path in after if after[path] != before.get(path)} == {"reports/contact-sheet.png"}
    source.rename(source.with_name("elsewhere"))
    run("show")
    assert grey_tiles(sheet) == 24


def test_show__mistakes(run: Run, finished: Workspace) -> None:
    output = finished.root / "mistakes.png"
    arguments = ("show", "--errors", "logreg", "--split", "val", "--output", str(output))
    said = run("--root", str(finished.root), *arguments).stdout
    assert said.startswith(f"{output}: logreg, out of fold: ")
    assert said.endswith(" on 6 images of val\n")
    assert output.read_bytes().startswith(b"\x89PNG")
    assert not (finished.root / "reports" / "contact-sheet.png").exists()


def test_show__opens_the_picture(run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    run("prepare")
    run("show", "--open", "-n", "1")
    assert opened == [(workspace.root / "reports" / "contact-sheet.png").resolve().as_uri()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--errors", "logreg", "--split", "test"), "--errors looks at no test image"),
        (("--output", "sheet.jpg"), "expected a name that ends in .png"),
        (("-n", "0"), "not in the range 1<=x<=1000"),
        (("--split", "all"), "'all' is not one of 'train', 'val', 'test'"),
    ],
)
def test_show__usage(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("show", *arguments, code=2).stderr


def test_show__to_a_pipe_is_a_usage_error(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "expected a regular file" in run("show", "--output", str(tmp_path / "pipe.png"), code=2).stderr


def test_show__fails_in_one_line(fails: Callable[..., str], run: Run) -> None:
    assert "no manifest yet. Run `pipeline prepare` first." in fails("show")
    run("prepare")
    assert "--label bird: " in fails("show", "--label", "bird")
    assert "no features yet. Run `pipeline extract`." in fails("show", "--errors", "logreg")
