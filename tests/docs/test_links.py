"""What the pages point at is there: links, headings, and files that are named."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, ROOT, without_code

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FOREIGN = re.compile(r"[a-z][a-z0-9+.-]*:")
#: Files of this repository; what stages make (``data/``, ``cache/`` …) is not among them.
_NAMED = re.compile(r"`((?:pipeline|tests|docs|benchmarks)/[\w./-]*)`")
#: New ones, that the worked examples of ``docs/extending.md`` would add.
_EXAMPLES = {"pipeline/dataset/sources/shapes.py", "pipeline/results/export/layer_file.py"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(without_code(page)):
        if _FOREIGN.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert file.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in _NAMED.findall(without_code(page)):
        assert (ROOT / path).exists() != (path in _EXAMPLES), path


def test_readme_leads_to_every_page() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            targets = [target.partition("#")[0] for target in _LINK.findall(without_code(page))]
            todo += [(page.parent / target).resolve() for target in targets if not _FOREIGN.match(target)]
    assert set(PAGES) - reached == set()
