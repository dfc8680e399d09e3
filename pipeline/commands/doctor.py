"""`pipeline doctor`."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

import click

from pipeline.console import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.results.doctor.check import Check

_WIDEST = 120  # columns; longer lines are hard to read


@click.command(short_help="Check the machine and the workspace.", epilog="Example:  pipeline doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check that all is there that is needed, and say what to do where it is not.

    Packages and extras, device, memory, disk, weights; and of a workspace parameters, images, features, a
    lock that is held, and what killed runs have left. Nothing is changed. The exit code is 1 if something
    does not work (fail), and 0 if something only could be better, or is still to be done (warn).
    """
    import json
    from dataclasses import asdict

    from pipeline.results.doctor.doctor import doctor

    checks = doctor(ctx.obj)
    click.echo(json.dumps([asdict(check) for check in checks], indent=2) if as_json else _told(checks))
    if any(check.status == "fail" for check in checks):
        ctx.exit(1)


def _told(checks: Sequence[Check]) -> str:
    """Lay out what was found, remedies below it."""
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    longest = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        start = f"{check.status:<4}  {check.name:<{longest}}  "
        margin = " " * len(start)
        lines += textwrap.wrap(
            printable(check.found),
            width,
            initial_indent=start,
            subsequent_indent=margin,
            break_on_hyphens=False,
        )
        if check.remedy:
            lines += textwrap.wrap(
                printable(check.remedy),
                width,
                initial_indent=margin + "→ ",
                subsequent_indent=margin + "  ",
                break_on_hyphens=False,
            )
    return "\n".join(lines)
