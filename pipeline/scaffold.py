"""A fresh workspace: its parameters, its DVC stages, and the settings of DVC and git."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from pipeline.console import printable
from pipeline.edit_params import source_for_params, write_params
from pipeline.errors import WorkspaceError
from pipeline.files import write_atomically
from pipeline.params import NAMED_SOURCES, STAGE_VERSIONS, missing_source

# Templates carry no leading dot, so that no tool mistakes them for its own settings.
_TEMPLATES = {
    "params.yaml": "params.yaml",
    "dvc.yaml": "dvc.yaml",
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
    "dvc_config": ".dvc/config",
}


def create_workspace(root: Path, source: str | None = None) -> list[str]:
    """Write a workspace's files.

    Parameters
    ----------
    root : Path
        The folder, made where it is missing. What it holds already is kept.
    source : str, optional
        Where the images are (a relative path starts at the current folder), all of them; by
        default the digits of ``params.yaml``.

    Returns
    -------
    list of str
        The files written.

    Raises
    ------
    WorkspaceError
        `root` is a workspace already, or a file.
    SourceMissing
        There is nothing at `source`; nothing is written.
    """
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"{printable(str(root))} is a file: name a folder for the workspace.")
    present = [name for name in ("params.yaml", "dvc.yaml") if (root / name).exists()]
    if present:
        here = printable(str(root))
        raise WorkspaceError(
            f"{here} already holds {' and '.join(present)}: choose another folder, or change the source "
            f"of this one with `pipeline --root {here} prepare --source …`."
        )
    changes: dict[str, object] = {"versions": STAGE_VERSIONS}
    if source is not None:
        named = source_for_params(source, root)
        if named not in NAMED_SOURCES and not Path(os.path.normpath(root.resolve() / named)).exists():
            raise missing_source(source, source, "pipeline init")
        changes |= {"dataset.source": named, "dataset.limit": None}
    written = []
    for template, name in _TEMPLATES.items():
        text = files("pipeline").joinpath("templates", template).read_text("utf-8")
        if name == ".dvc/config" and not _in_git(root):
            text = text.replace("[core]\n", "[core]\n    no_scm = true\n")
        if not (root / name).exists():
            write_atomically(root / name, text)
            written.append(name)
    write_params(root / "params.yaml", changes)
    return written


def _in_git(root: Path) -> bool:
    absolute = root.absolute()
    return any((folder / ".git").exists() for folder in (absolute, *absolute.parents))
