from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.results.dvc_plots import keep_plots_offline
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.commands.test_report_in_a_browser import Browser, browser

__all__ = ["browser"]

STAGES = """\
plots:
  - numbers.csv: {template: confusion, x: actual, y: predicted}
"""


@pytest.fixture(autouse=True)
def no_other_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep DVC from the configuration and the caches of whoever runs this."""
    for what in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{what}_DIR", str(tmp_path / f"dvc-{what.lower()}"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace as `pipeline init` makes it, with a plot."""
    root = tmp_path / "workspace"
    create_workspace(root)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "numbers.csv").write_text("actual,predicted\ncat,cat\ncat,dog\ndog,dog\n")
    return Workspace(root)


def test_plots__are_drawn_without_a_network(workspace: Workspace, browser: Browser) -> None:
    from pipeline.results.report.page import chart_library

    keep_plots_offline(workspace, chart_library())
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show"],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = workspace.root / "dvc_plots" / "index.html"
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page.read_text("utf-8"))
    browser.open(page, "document.querySelector('.vega-embed canvas, .vega-embed svg') !== null")
    # by itself, DVC asks the network for scripts, and the browser complains of each that does not come
    assert [complaint for complaint in browser.complaints if '"level": "error"' in complaint] == []


def template_and_config(workspace: Workspace) -> tuple[str, str]:
    folder = workspace.root / ".dvc"
    return (folder / "plots.html").read_text("utf-8"), (folder / "config.local").read_text("utf-8")


CONFIG = "[plots]\n    html_template = plots.html\n"


def test_plots__scripts_are_renewed(workspace: Workspace) -> None:
    keep_plots_offline(workspace, "first()")
    template, config = template_and_config(workspace)
    assert "first()" in template
    assert config == CONFIG
    for placeholder in ("{plot_divs}", "{refresh_tag}"):
        assert template.count(placeholder) == 1
    keep_plots_offline(workspace, "second()")
    assert template_and_config(workspace) == (template.replace("first()", "second()"), CONFIG)
    (workspace.root / ".dvc" / "plots.html").unlink()
    keep_plots_offline(workspace, "first()")
    assert template_and_config(workspace) == (template, CONFIG)


def test_plots__git_keeps_none_of_it(workspace: Workspace) -> None:
    subprocess.run(["git", "init", "--quiet", str(workspace.root)], check=True)
    keep_plots_offline(workspace, "first()")
    listed = ["git", "-C", str(workspace.root), "status", "--porcelain", "--untracked-files=all", ".dvc"]
    seen = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    assert seen == "?? .dvc/config\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[core]\n    remote = here\n", f"[core]\n    remote = here\n{CONFIG}"),
        ("[plots]\n    auto_open = true\n", f"{CONFIG}    auto_open = true\n"),
    ],
)
def test_plots__what_is_configured_stays(workspace: Workspace, before: str, after: str) -> None:
    (workspace.root / ".dvc" / "config.local").write_text(before)
    keep_plots_offline(workspace, "first()")
    assert template_and_config(workspace)[1] == after


@pytest.mark.parametrize("name", ["config", "config.local"])
def test_plots__a_template_of_somebody_else_is_left_alone(workspace: Workspace, name: str) -> None:
    with (workspace.root / ".dvc" / name).open("a") as file:
        file.write("[plots]\n    html_template = mine.html\n")
    before = tree(workspace.root)
    keep_plots_offline(workspace, "first()")
    assert tree(workspace.root) == before


def test_plots__without_dvc_nothing_is_written(workspace: Workspace) -> None:
    (workspace.root / ".dvc" / "config").unlink()
    keep_plots_offline(workspace, "first()")
    assert list((workspace.root / ".dvc").iterdir()) == []


def test_plots__no_string_of_the_library_ends_its_element(workspace: Workspace) -> None:
    keep_plots_offline(workspace, "f('</script><b>')")
    assert "</script><b>" not in template_and_config(workspace)[0]
