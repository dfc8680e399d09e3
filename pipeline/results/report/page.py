"""From values to one file of HTML that needs nothing else, and may do nothing else.

Owns the escaping and the content security policy. File names and class names are foreign text: Jinja escapes
them for HTML, control characters are shown as escapes, and no foreign text ever becomes a script or a style.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from pipeline.console import printable
from pipeline.errors import PipelineError


def require_chart_library() -> None:
    """See that the scripts that draw charts can be had.

    Raises
    ------
    PipelineError
        The package that brings them is not installed.
    """
    try:
        importlib.import_module("vl_convert")
    except ImportError as error:
        raise PipelineError(
            f"the charts of the report are drawn by Vega, which cannot be imported ({error}): "
            f"pip install 'feature-cache-pipeline[report]', or in a checkout pip install -e '.[report]'."
        ) from None


def chart_library() -> str:
    """Return the script that draws charts: Vega, Vega-Lite and Vega-Embed, as a module without imports.

    It is put together from what the package holds, in three seconds, without a network.
    """
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def render(values: Mapping[str, Any], charts: Mapping[str, Any], library: str) -> str:
    """Fill the page.

    Parameters
    ----------
    values : mapping
        What the template names. Text is foreign, unless it is `Markup`.
    charts : mapping
        Vega-Lite specifications, by the name of the element that each is drawn in.
    library : str
        See `chart_library`.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["lines"] = _lines
    style, script = _read("page.css"), _read("page.js")
    library = script_in_html(library)
    return environment.from_string(_read("page.html")).render(
        values,
        charts=charts.keys(),
        data=_trusted(_json_in_html(charts)),
        style=_trusted(style),
        library=_trusted(library),
        script=_trusted(script),
        policy="; ".join(
            (
                "default-src 'none'",
                f"script-src {_digest(library)} {_digest(script)}",
                f"style-src {_digest(style)}",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
    )


def _shown(value: Any) -> Any:
    """Return what the template prints of a value: foreign text with control characters as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _trusted(text: str) -> Markup:
    """Return text that is not escaped: the page's own, and JSON that cannot end its element."""
    return Markup(text)  # noqa: S704


def _lines(text: str) -> Markup:
    """Return foreign text whose line ends are meant."""
    return Markup("\n").join(escape(printable(line)) for line in text.splitlines())


def _json_in_html(value: Any) -> str:
    """Return JSON that no text in it can end the element of."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def script_in_html(script: str) -> str:
    """Return a script that no string in it can end the element of."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files("pipeline.results.report").joinpath(name).read_text("utf-8")
