"""The documentation as its tests see it: its pages, and the code in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

#: Everything that people read on GitHub.
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language, in their order, without indentation."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    found = pattern.findall(page.read_text("utf-8"))
    return [textwrap.dedent(block) for _, block in found]


def without_code(page: Path) -> str:
    """Return a page's text without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
