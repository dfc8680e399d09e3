"""`pipeline prepare`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.commands import cluster_of, cluster_options, complete_file, workspace_of
from pipeline.console import counted, printable, table, warn
from pipeline.errors import SourceMissing
from pipeline.params import SPLITS

if TYPE_CHECKING:
    from pipeline.cluster import Cluster
    from pipeline.dataset.looks import Examine
    from pipeline.dataset.prepare import PrepareReport
    from pipeline.workspace import Workspace


@click.command(
    short_help="List, check and split the images.",
    epilog="Example:  pipeline prepare --source ~/photos/pets --limit 500",
)
@click.option(
    "--source",
    shell_complete=complete_file,
    metavar="SOURCE",
    help="A folder or archive of labelled images, `digits` or `cats-dogs`; kept in params.yaml.",
)
@click.option(
    "--limit",
    metavar="N",
    help="Take a class-balanced sample of N images, or `all`; kept in params.yaml.",
)
@click.option("--resplit", is_flag=True, help="Forget the split so far, and split all images anew.")
@click.option("--rehash", is_flag=True, help="Read every file again, even those that look unchanged.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str | None,
    limit: str | None,
    resplit: bool,
    rehash: bool,
    as_json: bool,
    **on: object,
) -> None:
    """List the images, check that each can be decoded, and split them: data/manifest.csv.

    A folder of images has one folder a class, or train/ val/ test/ folders of such, or a
    labels.csv (path,label[,group][,split]). An archive (.zip, .tar, .tar.gz) holds any of these.
    The images themselves are never changed.
    """
    from pipeline.dataset.prepare import prepare
    from pipeline.edit_params import changed_params, source_for_params

    workspace = workspace_of(ctx)
    changes: dict[str, object] = {}
    if source is not None:
        changes["dataset.source"] = source_for_params(source, workspace.root)
    if limit is not None:
        if limit != "all" and not limit.isdecimal():
            raise click.BadParameter("expected a whole number, or `all`", param_hint="--limit")
        changes["dataset.limit"] = None if limit == "all" else int(limit)
    try:
        with changed_params(workspace.params_file, changes), cluster_of(on) as cluster:
            examine = _examiner(workspace, cluster)
            report = prepare(workspace, resplit=resplit, rehash=rehash, examine=examine)
    except SourceMissing as error:
        from pipeline.features.extract import is_complete

        if changes or not is_complete(workspace):
            raise
        warn(f"{error} Going on with the manifest as it was: the store holds all its features.")
        return
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        click.echo(_told(report))


def _examiner(workspace: Workspace, cluster: Cluster | None) -> Examine:
    """Return what looks into files."""
    if cluster is None:
        from pipeline.dataset.verdicts import examine

        return examine
    from pipeline.dataset.on_cluster import ExamineOnCluster

    return ExamineOnCluster(cluster, workspace.root)


def _told(report: PrepareReport) -> str:
    """Say what was found: a table of classes and splits, then whatever deserves attention."""
    counts = report.counts
    rows = [
        (label, *(str(counts[label].get(split, 0)) for split in SPLITS), str(sum(counts[label].values())))
        for label in sorted(counts)
    ]
    totals = [sum(counts[label].get(split, 0) for label in counts) for split in SPLITS]
    lines = [
        table(("class", *SPLITS, "images"), [*rows, ("all", *map(str, totals), str(sum(totals)))]),
        "",
    ]
    if report.changed:
        changes = ("added", "removed", "moved", "replaced", "relabelled")
        lines.append(", ".join(f"{getattr(report, change)} {change}" for change in changes))
    else:
        lines.append("nothing has changed")
    if report.quarantined:
        told = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
        lines.append(
            f"{len(report.quarantined)} quarantined: {told}; see status and reason in data/manifest.csv"
        )
    if report.conflicts:
        lines.append(
            f"{len(report.conflicts)} left out because the same image stands under two labels "
            f"(first: {printable(report.conflicts[0].path)}); status conflict in data/manifest.csv"
        )
    if report.excluded:
        lines.append(f"{len(report.excluded)} excluded by data/corrections.csv")
    if report.duplicates:
        lines.append(f"{counted(report.duplicates, 'exact copy', 'exact copies')} of other images")
    if report.ignored:
        lines.append(f"{report.ignored} other files ignored")
    return "\n".join(lines)
