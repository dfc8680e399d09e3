"""`pipeline report`: what it says, and a page made of hostile names."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from pipeline.dataset.manifest import read_manifest
from pipeline.workspace import Workspace
from tests.commands.hostile_report import CLASSES, hostile_folder, page

__all__ = ["hostile_folder", "page"]  # fixtures

Run = Callable[..., Result]


@pytest.fixture
def workspace(hostile_folder: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(hostile_folder, tmp_path / "copy")
    return Workspace(tmp_path / "copy" / "workspace")


def test_report__names_are_text(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "quote&#34;&#39;&gt;&lt;img src=x onerror=alert(2)&gt;.png" in text
    assert "line\\nbreak.png" in text
    assert "bidi\\u202egnp.png" in text
    assert "\u202e" not in text
    assert "{{ 7 * 7 }}.png" in text
    assert "broken&lt;b&gt;.png" in text
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    assert data
    assert "<" not in data[1]
    assert {value["class"] for value in json.loads(data[1])["map"]["data"]["values"]} == set(CLASSES)


def test_report__thumbnails_are_small_and_have_nothing_of_the_file(run: Run, workspace: Workspace) -> None:
    photos = workspace.root.parent / "photos"
    gone, changed = sorted(photos.glob("0*.png"))[:2]
    gone.unlink()
    changed.write_bytes((photos / "30.png").read_bytes())
    run("report")
    page = workspace.report_file.read_text("utf-8")
    learned = {row.path for row in read_manifest(workspace.manifest_file).usable if row.split != "test"}
    for path in (gone.name, changed.name):
        assert f'aria-label="no picture of {path}"' in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"[^>]*data-picture', page)
    assert len(pictures) == len(learned - {gone.name, changed.name})
    for picture in pictures[:5]:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert (image.size, image.format, dict(image.getexif())) == ((72, 72), "JPEG", {})


def test_report__says_where_it_is(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    said = run("report", "--head", "logreg", "--output", str(output)).stdout
    assert re.fullmatch(re.escape(str(output)) + r" \(\d\.\d MB\)\n", said)
    assert not workspace.report_file.exists()


def test_report__opens_the_page(run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    run("report", "--open")
    assert opened == [workspace.report_file.resolve().as_uri()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--head", "knn"), "no such model"),
        (("--head", "../x"), "a head's name is"),
    ],
)
def test_report__error(run: Run, workspace: Workspace, arguments: tuple[str, ...], words: str) -> None:
    result = run("report", *arguments, code=1)
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not workspace.report_file.exists()


def test_report__to_a_folder_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    assert "is a directory" in run("report", "--output", str(tmp_path), code=2).stderr
