"""What a person sees while work goes on: progress, notes and tables.

Results go to stdout, everything else to stderr. Names of files and classes are foreign
text: control characters in them are escaped before they reach a terminal. How much is said, and how, is
the user's choice (`speaking`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal


@dataclass(frozen=True)
class _Manner:
    quiet: bool = False
    plain: bool = False


_manner = _Manner()


@contextlib.contextmanager
def speaking(*, quiet: bool = False, plain: bool = False) -> Iterator[None]:
    """Set how what is no result is said, up to the end of the block.

    Parameters
    ----------
    quiet : bool, default False
        Not at all: no progress, notes or warnings.
    plain : bool, default False
        Without bars and colours, a line at a time, even on a terminal.
    """
    global _manner
    before, _manner = _manner, _Manner(quiet, plain)
    try:
        yield
    finally:
        _manner = before


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes shown as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def counted(count: int, one: str, many: str = "") -> str:
    """Say a number with its noun: ``1 image``, ``2 images``; `many` where it is not `one` and an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def note(message: str) -> None:
    """Say something on stderr that is not a result, unless the user wants it quiet."""
    if not _manner.quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Say on stderr that something deserves attention."""
    note(f"warning: {message}")


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show how far long work has come.

    Parameters
    ----------
    label : str
        What is being done.
    total : int
        How many units there are.
    unit : str, default "images"
        What is counted, in the plural.

    Yields
    ------
    callable
        To be called with the number of units just done. On a terminal it moves a bar with rate
        and remaining time; elsewhere, and where the user wants it plain, it prints a line now and then.
    """
    if _manner.quiet:
        yield lambda count: None
    elif sys.stderr.isatty() and not _manner.plain and not os.environ.get("NO_COLOR"):  # https://no-color.org
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        with _plain_lines(label, total, unit) as advance:
            yield advance


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich_progress
    from rich.console import Console

    class Rate(rich_progress.ProgressColumn):
        def render(self, task: rich_progress.Task) -> str:
            return f"{task.speed:.1f} {unit}/s" if task.speed else ""

    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        Rate(),
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _plain_lines(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    done = 0
    started = said = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= _PLAIN_INTERVAL and done < total:
            said = now
            rate = done / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if done else ""  # what failed may come first
            note(f"{label}: {done}/{_units(total, unit)}, {rate:.1f}/s{left}")

    yield advance
    elapsed = time.monotonic() - started
    note(f"{label}: {_units(done, unit)} in {elapsed:.1f} s")


def _units(count: int, unit: str) -> str:
    return counted(count, unit.removesuffix("s"), unit)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out a table as text.

    Parameters
    ----------
    header, rows : sequences of str
        The cells.
    left : int, default 1
        So many columns stand to the left, as text does; the others to the right, as numbers do.

    Returns
    -------
    str
        Lines joined by newlines, control characters escaped, no trailing spaces.
    """
    from rich.cells import cell_len  # on a terminal a CJK character is two columns wide

    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        padded = (cell + gap for cell, gap in zip(row[:left], gaps, strict=False))
        aligned = (gap + cell for cell, gap in zip(row[left:], gaps[left:], strict=True))
        lines.append("  ".join((*padded, *aligned)).rstrip())
    rule = (("-" if heading else " ") * width for heading, width in zip(cells[0], widths, strict=True))
    lines.insert(1, "  ".join(rule).rstrip())
    return "\n".join(lines)
