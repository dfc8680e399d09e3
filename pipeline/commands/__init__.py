"""One file a command: it parses, calls one function of a room, and prints what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.errors import PipelineError
from pipeline.workspace import Workspace

DEVICES = click.Choice(["auto", "cuda", "mps", "cpu"])

# What train-network and finetune have in common, in the order in which help shows it.
_NETWORK_OPTIONS = (
    click.option(
        "--batch-size", type=click.IntRange(1, 4096), default=32, show_default=True, help="Images a step."
    ),
    click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where the network runs."),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        help="Processes that decode.  [default: one a processor, at most 32]",
    ),
    click.option("--fresh", is_flag=True, help="Start anew, even where an interrupted run could go on."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that trainings in the network have in common."""
    return reduce(lambda made, option: option(made), reversed(_NETWORK_OPTIONS), command)


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
