"""One file a command: it parses, calls one function of a room, and prints what came of it."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from pipeline.errors import PipelineError
from pipeline.workspace import Workspace

DEVICES = click.Choice(["auto", "cuda", "mps", "cpu"])


def workspace_of(ctx: click.Context) -> Workspace:
    """Return the workspace that ``--root`` names.

    Raises
    ------
    WorkspaceError
        It is not one.
    """
    return Workspace(ctx.obj)


def complete_head(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer a shell the heads of ``params.yaml``, with their estimators; none where it cannot be read."""
    from pipeline.params import read_params

    try:
        heads = read_params(_root_of(ctx) / "params.yaml").heads
    except (PipelineError, OSError):
        return []
    return [
        CompletionItem(name, help=head.estimator)
        for name, head in heads.items()
        if name.startswith(incomplete)
    ]


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer a shell the trained models by name; where more than a name is typed, folders."""
    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    there = sorted(path.parent.name for path in (_root_of(ctx) / "models").glob("[a-z]*/model.json"))
    return [CompletionItem(name) for name in there if name.startswith(incomplete)]


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have a shell offer files, where what is typed may be something else, too."""
    return [CompletionItem(incomplete, type="file")]


def _root_of(ctx: click.Context) -> Path:
    """Return what ``--root`` names, be it a workspace or not; no command has been called yet."""
    root = ctx.find_root().params.get("root") or Path()
    return Path(os.path.expanduser(root))  # noqa: PTH111 (Path's own raises where there is no such user)
