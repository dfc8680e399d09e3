"""Changes to ``params.yaml`` that keep its comments and order."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.console import printable
from pipeline.errors import ParamsError
from pipeline.files import write_atomically
from pipeline.params import NAMED_SOURCES, parse_params


def write_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Write single values into ``params.yaml``.

    Parameters
    ----------
    path : Path
        An existing ``params.yaml``. It is left as it was if the result would not be valid.
    changes : mapping
        Dotted key to new value, such as ``{"dataset.limit": 500}``.

    Raises
    ------
    ParamsError
        The changed file would not be valid.
    """
    before = path.read_bytes()
    try:
        after = _changed(before, changes)
        parse_params(after)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None
    write_atomically(path, after)


@contextlib.contextmanager
def changed_params(path: Path, changes: Mapping[str, Any]) -> Iterator[None]:
    """Change ``params.yaml`` for what follows, and take it back if that fails."""
    if not changes:
        yield
        return
    before = path.read_bytes()
    write_params(path, changes)
    changed = path.read_bytes()
    try:
        yield
    except BaseException:  # Ctrl-C too
        if path.read_bytes() == changed:  # what somebody has edited meanwhile is theirs
            write_atomically(path, before)
        raise


def _changed(text: bytes, changes: Mapping[str, Any]) -> bytes:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()  # round trip: comments, order and quotes survive
    yaml.preserve_quotes = True
    yaml.width = 4096
    # by default it leaves the place of a null empty
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    try:
        document = yaml.load(text)
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # as in `parse_params`
        raise ParamsError(f"not valid YAML: {' '.join(str(error).split())}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ParamsError("the file: expected a mapping.")
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = document
        for parent in parents:
            section = section.setdefault(parent, {}) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ParamsError(f"{'.'.join(parents)}: expected a mapping.")
        section[last] = value
    changed = io.BytesIO()
    yaml.dump(document, changed)
    return changed.getvalue()


def source_for_params(source: str, root: Path) -> str:
    """Return a source named on the command line as ``params.yaml`` names it.

    There a relative path starts at the workspace, not at the current folder.

    Parameters
    ----------
    source : str
        ``digits``, ``cats-dogs``, or a path that starts at the current folder.
    root : Path
        The workspace.

    Raises
    ------
    ParamsError
        It is empty, or names the home folder of nobody.
    """
    if source in NAMED_SOURCES:
        return source
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        raise ParamsError(f"--source {printable(source)}: no such user. Write the path in full.") from None
    if not source:
        raise ParamsError("--source: expected a folder, an archive, `digits` or `cats-dogs`, found nothing.")
    # resolved: the way up out of a linked folder starts where the link leads
    return str(path) if path.is_absolute() else os.path.relpath(path, root.resolve())


def parsed_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs from the command line, values as in YAML.

    Raises
    ------
    ParamsError
        A pair has no ``=``, no key, or a value that is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    parsed = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            if not equals or not key:
                raise ValueError("expected KEY=VALUE")
            parsed[key] = YAML(typ="safe", pure=True).load(text)
        except (ValueError, YAMLError, LookupError, RecursionError) as error:
            raise ParamsError(f"--set {setting}: {' '.join(str(error).split())}.") from None
    return parsed
