"""One file a command: it parses, calls one function of a room, and prints what came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pipeline.errors import PipelineError
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.cluster import Cluster

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


_Command = TypeVar("_Command", bound=Callable[..., object])


def network_options(command: _Command) -> _Command:
    """Give a command the options that trainings in the network have in common."""
    return _given(command, _NETWORK_OPTIONS)


#: Names of what `cluster_options` adds.
CLUSTER_OPTIONS = ("scheduler", "workers_on_dask", "worker_resource", "tls_ca", "tls_cert", "tls_key")


def cluster_options(command: _Command) -> _Command:
    """Give a command the options that say which Dask cluster does the work, for `cluster_of`."""
    options = (
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Have the workers of this Dask scheduler do it, such as tls://10.0.0.1:8786.",
        ),
        click.option(
            "--workers-on-dask",
            type=click.IntRange(1, 256),
            metavar="N",
            help="Have a Dask cluster of N processes of this machine do it.",
        ),
        click.option(
            "--worker-resource",
            metavar="NAME",
            help="A task takes one of this resource of a Dask worker, such as GPU.",
        ),
        *(
            click.option(
                f"--tls-{kind}",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help=f"{what}, for a scheduler at tls://…",
            )
            for kind, what in (
                ("ca", "Certificate of the authority (PEM)"),
                ("cert", "Certificate of this user (PEM)"),
                ("key", "Key of that certificate (PEM)"),
            )
        ),
    )
    return _given(command, options)


def _given(command: _Command, options: Sequence[Callable[[_Command], _Command]]) -> _Command:
    """Give a command options, which help shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def cluster_of(options: Mapping[str, Any]) -> Iterator[Cluster | None]:
    """Connect to the cluster that the options of `cluster_options` name; None if they name none.

    Raises
    ------
    ClusterError
        It cannot be had.
    """
    scheduler, workers = options["scheduler"], options["workers_on_dask"]
    rest = [name for name in ("worker_resource", "tls_ca", "tls_cert", "tls_key") if options[name]]
    if scheduler and workers:
        raise click.UsageError("--scheduler and --workers-on-dask are two clusters: give one.")
    if not (scheduler or workers):
        if rest:
            raise click.UsageError(f"--{rest[0].replace('_', '-')} is of no use without --scheduler.")
        yield None
        return
    from pipeline.connection import ClusterOptions, connected

    tls = {name: options[name] for name in ("tls_ca", "tls_cert", "tls_key")}
    with connected(ClusterOptions(scheduler, workers, options["worker_resource"], **tls)) as cluster:
        yield cluster


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
