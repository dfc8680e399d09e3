"""`pipeline audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import workspace_of
from pipeline.console import counted, note, printable, table

if TYPE_CHECKING:
    from pipeline.results.audit.findings import Audit, LabelFindings, Oddity
    from pipeline.results.audit.fixes import AppliedFixes


@click.command(
    short_help="Find wrong labels, duplicates, leaks and odd images.",
    epilog="Example:  pipeline audit --apply reports/audit-fixes.csv",
)
@click.option(
    "--apply",
    "fixes",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Audit nothing, but take this table of fixes into data/corrections.csv: path,label or path,action.",
)
@click.option(
    "--new-label", "new_labels", multiple=True, metavar="NAME", help="With --apply: a label that is new."
)
@click.option("--include-test", is_flag=True, help="Doubt the labels of test images too.")
@click.option("--skip-labels", is_flag=True, help="Doubt no labels; cleanlab is then not needed.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Lines a table.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print reports/audit.json, or what was applied, as JSON."
)
@click.pass_context
def command(
    ctx: click.Context,
    fixes: Path | None,
    new_labels: tuple[str, ...],
    include_test: bool,
    skip_labels: bool,
    top: int,
    as_json: bool,
) -> None:
    """Look through the data by means of the stored features: reports/audit.json.

    Labels that the other images do not bear out; images that are there twice, compressed again, resized
    or mirrored, first those that lie across splits; images like no other, dark, blurred or tiny ones.
    Labels of the test split are doubted only with --include-test; the rest looks at its images, too,
    but at no label.

    What could be done about it is proposed in reports/audit-fixes.csv. Edit that, a line an image with the
    action relabel, exclude, keep (the label is right) or restore (forget an earlier fix), and apply it:
    `pipeline prepare`, or `dvc repro`, then honours it. The images stay as they are, nothing is
    extracted again.
    """
    workspace = workspace_of(ctx)
    if fixes is None:
        if new_labels:
            raise click.UsageError("--new-label goes with --apply.")
        from pipeline.results.audit.audit import audit

        found = audit(workspace, include_test=include_test, skip_labels=skip_labels)
        if as_json:
            click.echo(workspace.audit_file.read_text("utf-8"), nl=False)
        else:
            click.echo(_told(found, top))
            note(f"fixes are proposed in {printable(str(workspace.audit_fixes_file))}: edit and --apply it")
        return
    if include_test or skip_labels:
        raise click.UsageError("--apply audits nothing: --include-test and --skip-labels do not go with it.")
    from dataclasses import asdict

    from pipeline.results.audit.fixes import apply_fixes

    applied = apply_fixes(workspace, fixes, new_labels)
    if as_json:
        click.echo(json.dumps(asdict(applied), indent=2))
    else:
        click.echo(_told_applied(applied, workspace.corrections_file))


def _told(audit: Audit, top: int) -> str:
    """Say what was found, leaks first, a table each; what was not found, in one line."""
    parts = [f"{counted(audit.images, 'image')} audited"]
    if audit.leaks:
        parts.append(
            f"LEAK: {counted(audit.leaks, 'duplicate')} across splits. Scores look better than they "
            f"are, until each is in one split only."
        )
    parts += [*_duplicates(audit, top)]
    if audit.labels is not None:
        parts += [*_labels(audit.labels, top)]
    parts += [
        *_oddities("images like no other", "deviations from the rest", audit.outliers, top),
        *_oddities("dark images", "light, of 255", audit.dark, top),
        *_oddities("blurred images", "sharpness", audit.blurred, top),
        *_oddities("tiny images", "pixels, shorter side", audit.tiny, top),
    ]
    return "\n\n".join(parts)


def _duplicates(audit: Audit, top: int) -> list[str]:
    parts = []
    if audit.exact:
        files = sum(len(copies.paths) for copies in audit.exact)
        rows = [
            (", ".join(copies.paths), ", ".join(copies.splits), "LEAK" if copies.leak else "")
            for copies in audit.exact[:top]
        ]
        parts.append(
            _titled(
                f"exact copies: {counted(files, 'file')} of {counted(len(audit.exact), 'image')}",
                table(("images", "splits", "leak"), rows, left=3),
                len(audit.exact) - top,
            )
        )
    if audit.near:
        pairs = [
            (*pair.paths, ", ".join(pair.splits), "LEAK" if pair.leak else "", f"{pair.similarity:.3f}")
            for pair in audit.near[:top]
        ]
        parts.append(
            _titled(
                f"near duplicates: {counted(len(audit.near), 'pair')}",
                table(("image", "like", "splits", "leak", "similarity"), pairs, left=4),
                len(audit.near) - top,
            )
        )
    return parts or ["duplicates: none"]


def _labels(labels: LabelFindings, top: int) -> list[str]:
    sure = sum(issue.confident for issue in labels.issues)
    title = (
        f"labels: {len(labels.issues)} doubted, {sure} of them by confident learning (*); of "
        f"{counted(labels.rows, 'image')} of train and val, about {labels.estimated} are wrong"
    )
    if labels.reviewed:
        title += f"; {labels.reviewed} corrected or kept before"
    parts = [title]
    if labels.issues:
        rows = [
            (
                issue.path,
                issue.split,
                issue.label,
                issue.suggested,
                "*" if issue.confident else "",
                f"{issue.quality:.3f}",
            )
            for issue in labels.issues[:top]
        ]
        header = ("image", "split", "label", "rather", "*", "quality")
        parts = [_titled(title, table(header, rows, left=5), len(labels.issues) - top)]
    if labels.test is not None:
        parts.append(
            f"test labels were looked at: a classifier of train and val is right on "
            f"{labels.test.accuracy_as_labelled:.4f} of {counted(labels.test.rows, 'image')} as they are "
            f"labelled, and would be on {labels.test.accuracy_as_suggested:.4f} with those that are doubted "
            f"taken as suggested. Report both."
        )
    return parts


def _oddities(title: str, unit: str, found: tuple[Oddity, ...], top: int) -> list[str]:
    if not found:
        return [f"{title}: none"]
    rows = [(oddity.path, oddity.split, f"{oddity.value:g}") for oddity in found[:top]]
    laid = table(("image", "split", unit), rows, left=2)
    return [_titled(f"{title}: {len(found)}", laid, len(found) - top)]


def _titled(title: str, laid: str, more: int) -> str:
    rest = f"\n… and {more} more: --top, or reports/audit.json" if more > 0 else ""
    return f"{title}\n{laid}{rest}"


def _told_applied(applied: AppliedFixes, file: Path) -> str:
    said = ", ".join(
        f"{getattr(applied, what)} {what}"
        for what in ("relabelled", "excluded", "kept", "restored", "undecided")
    )
    if not applied.changed:
        return f"{said}: nothing that {printable(str(file))} does not say already"
    return (
        f"{said} -> {printable(str(file))}, {counted(applied.corrections, 'correction')} in all. "
        f"`dvc repro`, or `pipeline prepare`, takes them in."
    )
