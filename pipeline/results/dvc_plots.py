"""``dvc plots show`` without a network: a page template that brings the charts' scripts along.

Owns ``.dvc/plots.html`` and the line of ``.dvc/config.local`` that names it. Both belong to one copy of a
workspace, and git keeps neither: a fresh clone has DVC's own page, whose scripts come from the network,
until there is a report. A template that somebody else has configured for the workspace is left alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.files import write_atomically
from pipeline.results.report.page import script_in_html
from pipeline.workspace import Workspace

_NAME = "plots.html"  # a relative one starts at .dvc
_SECTION = re.compile(r"^[ \t]*\[plots\][ \t]*$", re.MULTILINE)
_CONFIGURED = re.compile(r"^\s*html_template\s*=\s*(.*?)\s*$", re.MULTILINE)

# DVC fills in the words in braces. Its own page asks for the scripts where `scripts` stands. Plots follow as
# scripts that run where they are, so the library is one too, and no module; in a function, it shares no name
# with them.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{{refresh_tag}}
<title>DVC plots</title>
<script>(() => {{
{library}
}})();</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def keep_plots_offline(workspace: Workspace, library: str) -> None:
    """Have ``dvc plots show`` in a workspace make pages that need no network, if it is one of DVC's.

    Parameters
    ----------
    workspace : Workspace
        Whose ``.dvc`` is written to; its ``config.local`` once.
    library : str
        See `pipeline.results.report.page.chart_library`. About 0.9 MB.
    """
    folder = workspace.root / ".dvc"
    shared, local = (_text(folder / name) for name in ("config", "config.local"))
    if shared is None:
        return
    configured = [found[1] for text in (shared, local or "") if (found := _CONFIGURED.search(text))]
    if configured not in ([], [_NAME]):
        return
    # first: a template that is not there is an error to DVC
    write_atomically(folder / _NAME, _PAGE.format(library=script_in_html(library)))
    if not configured:
        write_atomically(folder / "config.local", _configuring(local or ""))


def _configuring(config: str) -> str:
    """Return a configuration of DVC with the template in it; what it says already stays."""
    line = f"    html_template = {_NAME}"
    if _SECTION.search(config):
        return _SECTION.sub(lambda header: f"{header[0]}\n{line}", config, count=1)
    return f"{config}[plots]\n{line}\n"


def _text(file: Path) -> str | None:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return None
