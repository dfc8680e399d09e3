"""`pipeline store`: looking after the stored features."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import workspace_of
from pipeline.console import counted, printable, table
from pipeline.typed import did_you_mean
from pipeline.views import CENTER

if TYPE_CHECKING:
    from pipeline.features.upkeep import StoreInfo

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


class _Verbs(click.Group):
    """A group that says what it has where it is asked for something else."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], self.commands) or f" There are {', '.join(self.commands)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Verbs, short_help="Look after the stored features.", epilog="Example:  pipeline store verify"
)
def command() -> None:
    """Look after the feature store, cache/features/."""


@command.command(short_help="What the store holds.", epilog="Example:  pipeline store info --json")
@_AS_JSON
@click.pass_context
def info(ctx: click.Context, as_json: bool) -> None:
    """Show what the store holds, and whose features they are."""
    from pipeline.features.upkeep import inspect

    found = inspect(workspace_of(ctx))
    click.echo(json.dumps(asdict(found), indent=2) if as_json else _told(found))


@command.command(short_help="Look at every byte.", epilog="Example:  pipeline store verify")
@_AS_JSON
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Look at every byte of the store.

    Each shard is named by the SHA-256 of its bytes, so no change goes unseen. Whatever cannot be
    used is listed with the reason, and the exit code is then 1. Nothing is changed.
    """
    from pipeline.errors import DamagedShard, MissingRows
    from pipeline.features.upkeep import verify

    report = verify(workspace_of(ctx))
    what = f"{counted(report.shards, 'shard')}, {counted(report.rows, 'row')}, {_size(report.bytes)}"
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    elif report.damaged:
        click.echo(table(("shard", "reason"), list(report.damaged.items()), left=2))
    elif not report.missing:
        click.echo(f"{what}: all whole")
    if report.damaged:
        raise DamagedShard(
            f"{len(report.damaged)} of {counted(report.shards, 'shard')} cannot be used. "
            f"Run `pipeline extract --verify`, which makes just their rows again."
        )
    if report.missing:
        raise MissingRows(
            f"{counted(len(report.missing), 'image')} that cache/index.json counts as stored "
            f"{'has' if len(report.missing) == 1 else 'have'} no features "
            f"(first: {printable(report.missing[0])}). Run `pipeline extract`."
        )


@command.command(
    short_help="Drop unused rows, merge small shards.", epilog="Example:  pipeline store gc --dry-run"
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@_AS_JSON
@click.pass_context
def gc(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Drop features that are not asked for, and merge small shards.

    Asked for are the views that extract.views names, of all images that the manifest uses. Images that
    `--limit` leaves out are not used either: taken in again, they are computed again.
    Damaged shards that were set aside are removed. Every byte is looked at first, with --dry-run too.
    """
    from pipeline.features.compaction import compact

    report = compact(workspace_of(ctx), dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        click.echo(
            f"{'would drop' if dry_run else 'dropped'} {counted(report.rows_dropped, 'row')}, "
            f"{'keep' if dry_run else 'kept'} {report.rows_kept} "
            f"in {counted(report.shards_after, 'shard')} (before: {report.shards_before}), "
            f"{'remove' if dry_run else 'removed'} {counted(report.set_aside, 'damaged shard')}: "
            f"{'about ' if dry_run else ''}{_size(report.bytes_freed)} freed"
        )


@command.command(
    "import",
    short_help="Take in the features of another store.",
    epilog="Example:  pipeline store import ../other-project",
)
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_AS_JSON
@click.pass_context
def import_(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Take in the features of another store: FOLDER is a workspace, its cache, or its cache/features.

    Only features of the extractor that is used here are taken, and only shards that hold something new.
    Each is checked; those that cannot be used are listed with the reason, and the exit code is then 1.
    """
    from pipeline.errors import DamagedShard
    from pipeline.features.adoption import take_in

    report = take_in(workspace_of(ctx), folder)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        if report.rejected:
            click.echo(table(("shard", "reason"), list(report.rejected.items()), left=2) + "\n")
        click.echo(
            f"took in {counted(report.rows, 'row')} in {counted(report.shards, 'shard')}; "
            f"{counted(report.skipped, 'shard')} had nothing new"
        )
    if report.rejected:
        raise DamagedShard(
            f"{counted(len(report.rejected), 'shard')} of {printable(str(folder))} cannot be used; "
            f"the others were taken in. `pipeline extract` computes what is missing."
        )


def _told(info: StoreInfo) -> str:
    lines = [
        ("folder", info.folder),
        ("rows", f"{info.rows} in {counted(info.shards, 'shard')}, {_size(info.bytes)}"),
    ]
    if info.views.keys() - {CENTER}:
        lines.append(("views", ", ".join(f"{view} {rows}" for view, rows in info.views.items())))
    if info.repeated:
        lines.append(("", f"{info.repeated} are stored more than once; `pipeline store gc` drops them"))
    if info.named is None:
        lines.append(("manifest", "there is none"))
    else:
        lines.append(("manifest", f"uses {info.named} of them, {info.unnamed} not"))
        if info.missing:
            without = "without features" if info.views.keys() <= {CENTER} else "without a view"
            lines.append(("", f"{counted(info.missing, 'image')} {without}; run `pipeline extract`"))
    if info.oldest and info.newest:
        ages = dict.fromkeys((_age(info.oldest), _age(info.newest)))
        lines.append(("written", f"{' to '.join(ages)} ago"))
    for made in info.made_with:
        circumstances = ", ".join(f"{name} {value}" for name, value in made.items() if name != "rows")
        lines.append(("made with", f"{circumstances}: {counted(made['rows'], 'row')}"))
    lines += [("identity", f"{name} {value}") for name, value in info.identity.items()]
    lines += [("unusable", f"{name}; run `pipeline extract`") for name in info.unusable]
    lines += [("set aside", f"{name}; `pipeline store gc` removes it") for name in info.set_aside]
    return "\n".join(f"{name:<10} {printable(value)}" for name, value in lines)


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _age(moment: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(seconds // length, unit)
    return counted(max(seconds, 0), "second")
