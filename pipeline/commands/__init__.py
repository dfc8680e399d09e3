"""One file a command: it parses, calls one function of a room, and prints what came of it."""

from __future__ import annotations

import click

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
