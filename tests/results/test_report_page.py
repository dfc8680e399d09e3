from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.edit_params import write_params
from pipeline.errors import PipelineError, WorkspaceError
from pipeline.files import write_json
from pipeline.heads.sweep import Space, sweep
from pipeline.heads.train import train
from pipeline.results.evaluate import evaluate
from pipeline.results.report import answers as answers_room
from pipeline.results.report import report as room
from pipeline.results.report.page import render, require_chart_library
from pipeline.results.report.report import report
from pipeline.workspace import Workspace


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the four seconds in which the real one is put together."""
    monkeypatch.setattr(room, "chart_library", lambda: "window.vegaEmbed = async () => {};")


class Page(HTMLParser):
    """What a browser would make of it: elements, ids, links, and the text of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def with_tag(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    @property
    def charts(self) -> dict[str, dict[str, object]]:
        found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', self.text, re.DOTALL)
        assert found
        charts: dict[str, dict[str, object]] = json.loads(found[1])
        return charts


def page_of(workspace: Workspace, head: str = "logreg") -> Page:
    return Page(report(workspace, head=head).read_text("utf-8"))


def test_report__counts_are_those_of_the_manifest(workspace: Workspace) -> None:
    train(workspace, "logreg")
    page = page_of(workspace)
    for label in ("cat", "dog", "owl"):
        assert [label, "12", "4", "4", "20"] in page.rows
    assert ["all", "36", "12", "12", "60"] in page.rows
    assert ["dog/broken.jpg", "dog", "quarantined", "empty"] in page.rows
    matrix = [row for row in page.rows if len(row) == 4 and row[0] in ("cat", "dog", "owl")]
    assert [sum(map(int, row[1:])) for row in matrix[:3]] == [16, 16, 16]


def test_report__scores_are_those_of_the_metrics_files(workspace: Workspace) -> None:
    train(workspace, "logreg")
    evaluate(workspace, "logreg", "val")
    metrics = evaluate(workspace, "logreg", "test")
    page = page_of(workspace)
    low, high = metrics.accuracy_95
    assert [
        "logreg",
        "test",
        "12",
        f"{metrics.accuracy:.4f}",
        f"{low:.3f} – {high:.3f}",
        f"{metrics.macro_f1:.4f}",
        f"{metrics.log_loss:.4f}",
    ] in page.rows
    assert "The score of logreg on test was look 1 at the test split." in page.text


def test_report__same_bytes_each_time(workspace: Workspace) -> None:
    train(workspace, "logreg")
    first = report(workspace).read_bytes()
    assert report(workspace).read_bytes() == first


def test_report__works_without_images_and_without_probabilities(workspace: Workspace) -> None:
    train(workspace, "svm")
    page = page_of(workspace, "svm")
    assert "no picture of cat/00.jpg" in page.text
    assert "No calibration: linear-svm has no probabilities." in page.text
    assert set(page.charts) == {"roc", "precision-recall", "learning", "map"}


def test_report__of_a_torch_head_shows_its_training(workspace: Workspace) -> None:
    write_params(workspace.params_file, {"heads.linear.params": {"epochs": 3}})
    train(workspace, "linear")
    charts = page_of(workspace, "linear").charts
    values = charts["training-loss"]["data"]["values"]  # type: ignore[index]
    assert [value["epoch"] for value in values] == [1, 1, 2, 2, 3, 3]
    assert {value["images of"] for value in values} == {"train", "val"}


def test_report__of_a_head_that_does_not_say_how_sure_it_is(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_room, "can_be_calibrated", lambda head: False)
    train(workspace, "svm")
    page = page_of(workspace, "svm")
    assert "No ROC, precision-recall or calibration: linear-svm does not say how sure it is." in page.text
    assert set(page.charts) == {"learning", "map"}


def test_report__everything_that_is_linked_to_is_there(workspace: Workspace) -> None:
    train(workspace, "knn")
    page = page_of(workspace, "knn")
    links = {(attributes["href"] or "").removeprefix("#") for attributes in page.with_tag("a")}
    assert links <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.charts) <= set(page.ids)
    labelled = {
        attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes
    }
    assert labelled <= set(page.ids)


def test_report__can_be_read_without_seeing_it(workspace: Workspace) -> None:
    train(workspace, "logreg")
    page = page_of(workspace)
    assert page.with_tag("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.with_tag("img"))
    assert all("scope" in head for head in page.with_tag("th"))
    assert all(
        chart["role"] == "img" and chart["aria-label"]
        for chart in page.with_tag("div")
        if chart.get("id") in page.charts
    )
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_report__needs_and_may_load_nothing(workspace: Workspace) -> None:
    train(workspace, "logreg")
    page = page_of(workspace)
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    policy = next(
        meta["content"] or ""
        for meta in page.with_tag("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    inline = re.findall(r'<(?:script type="module"|style)>(.*?)</(?:script|style)>', page.text, re.DOTALL)
    assert len(inline) == 3
    for text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_report__a_sweep_is_shown_as_long_as_it_is_of_these_images(workspace: Workspace) -> None:
    train(workspace, "logreg")
    board = sweep(workspace, Space(estimators=("ridge",), poolings=("avg",)), folds=3)
    best = board.lines[0]
    page = page_of(workspace)
    setting = f"alpha={best.params['alpha']:g}"
    assert [
        "ridge",
        f"{best.accuracy:.4f}",
        f"{best.standard_error:.4f}",
        setting,
        "avg",
        best.normalize,
    ] in page.rows
    assert "is optimistic" in page.text
    stored = json.loads(workspace.sweep_file.read_bytes())
    stored["of"]["rows_sha256"] = "0" * 64
    write_json(workspace.sweep_file, stored)
    assert "is optimistic" not in page_of(workspace).text


def test_report__an_audit_is_summarised(workspace: Workspace) -> None:
    train(workspace, "logreg")
    issue = {"path": "cat/<b>.jpg", "split": "train", "label": "cat", "suggested": "dog", "quality": 0.1}
    nothing: list[object] = []
    found = dict.fromkeys(("exact", "near", "outliers", "dark", "blurred", "tiny"), nothing)
    write_json(workspace.audit_file, {"images": 60, "leaks": 2, "labels": {"issues": [issue]}, **found})
    page = page_of(workspace)
    assert ["labels in doubt", "1"] in page.rows
    assert ["cat/<b>.jpg", "train", "cat", "dog"] in page.rows
    assert "2 duplicates across splits: scores look better than they are" in page.text


@pytest.mark.parametrize("file", ["sweep_file", "audit_file"])
@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_report__what_no_command_wrote_is_named(workspace: Workspace, file: str, content: str) -> None:
    train(workspace, "logreg")
    path = getattr(workspace, file)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(WorkspaceError, match=rf"{path.name}: not what `pipeline \w+` writes"):
        report(workspace)


def test_require_chart_library__absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(PipelineError, match=r"Vega.*pip install 'feature-cache-pipeline\[report\]'"):
        require_chart_library()


def test_render__a_missing_value_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="title"):
        render({}, {}, "")


def test_report__file_is_replaced_whole(workspace: Workspace, tmp_path: Path) -> None:
    train(workspace, "logreg")
    output = tmp_path / "deep" / "page.html"
    assert report(workspace, output=output) == output
    assert not workspace.report_file.exists()
    assert [path.name for path in output.parent.iterdir()] == ["page.html"]
