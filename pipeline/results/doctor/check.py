"""One thing that was looked at.

Owns what is made of an error that is met on the way: a finding like others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing.

    Attributes
    ----------
    name : str
        The thing.
    status : {"ok", "warn", "fail"}
        ``warn``: something works less well, or will have to be done first; ``fail``: something does not work.
    found : str
        In words.
    remedy : str
        What to do about it; empty for ``ok``.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def looked_at(name: str, look: Callable[[], Check]) -> Check:
    """Return what `look` finds, or the error that it meets; the end of a message is the remedy."""
    try:
        return look()
    except (PipelineError, OSError, ImportError) as error:
        found, _, remedy = str(error).partition(". ")
        return Check(name, "fail", found, remedy or "Put that right, and look again")
