"""`pipeline extract`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from pipeline.commands import CLUSTER_OPTIONS, DEVICES, cluster_of, cluster_options, workspace_of
from pipeline.console import counted, note
from pipeline.workers import TIMEOUT

_HINT = "new images are found by `pipeline prepare`"


@click.command(
    short_help="Compute and store the features of new images.",
    epilog="Example:  pipeline extract --device cpu --batch-size 8",
)
@click.option(
    "--device",
    type=DEVICES,
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes CUDA, then MPS, then the CPU.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the network; auto takes OpenVINO on a CPU where it is installed.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    help="Images pushed through at once. Changes speed and memory only.  [default: 4 on a CPU, else more]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes that read and decode.  [default: one a processor, at most 32]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="For reading and decoding one image; what takes longer is listed in cache/failed.csv.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Replace features of another extractor; those of the one in params.yaml are kept.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Hash what is stored first; what a damaged shard held, and no other does, is computed again.",
)
@cluster_options
@click.option("--dry-run", is_flag=True, help="Say what there is to do, and how long it may take.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    fresh: bool,
    verify: bool,
    dry_run: bool,
    as_json: bool,
    **how: object,
) -> None:
    """Push every new image once through the frozen network: cache/features/.

    An image is known by its content: renamed, moved, relabelled or copied, it is not computed
    again. Stopped half-way, the same command goes on where it was.
    """
    from pipeline.features.extractor import Execution

    on = {name: how.pop(name) for name in CLUSTER_OPTIONS}
    execution = Execution(**how)  # type: ignore[arg-type]
    if dry_run:
        from pipeline.features.forecast import forecast

        if verify:
            raise click.UsageError("--dry-run changes nothing: give it without --verify.")
        if any(on.values()):
            raise click.UsageError("--dry-run is of this machine: give it without a cluster.")
        forecasted = forecast(workspace_of(ctx), execution, fresh=fresh)
        click.echo(json.dumps(asdict(forecasted), indent=2) if as_json else forecasted.told())
        if not (as_json or forecasted.to_compute):
            note(_HINT)
        return
    from pipeline.features.extract import ImagesFailed, extract

    workspace = workspace_of(ctx)
    try:
        with cluster_of(on) as cluster:
            engine = None
            if cluster:
                from pipeline.features.on_cluster import OnCluster

                engine = OnCluster(cluster, workspace.root, execution)
            report = extract(workspace, execution, fresh=fresh, verify=verify, engine=engine)
    except ImagesFailed as failed:
        if as_json:
            click.echo(json.dumps(asdict(failed.report), indent=2))
        raise
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    elif report.computed:
        click.echo(f"{counted(report.computed, 'image')} computed, {report.reused} taken from the store")
    else:
        click.echo(f"nothing to extract: the store holds all {counted(report.images, 'image')}")
        note(_HINT)
