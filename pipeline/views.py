"""The views of an image: parts of it that the network is shown, each with a row of its own in the store.

Owns their names. What a name means (`pipeline.features.transforms`) never changes: stored rows go by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pipeline.errors import ParamsError

#: The square from the centre, that square mirrored, and the squares in the corners of the resized image:
#: with ``center`` these are what is known as five crops.
View = Literal["center", "hflip", "top-left", "top-right", "bottom-left", "bottom-right"]
VIEWS: tuple[View, ...] = get_args(View)
#: The view that every image has.
CENTER: Literal["center"] = "center"

#: What a head makes of an image's views: it sees the centre only; the mean of all; or learns from each, and
#: is asked about the mean.
ViewUse = Literal["center", "average", "stack"]
VIEW_USES: tuple[ViewUse, ...] = get_args(ViewUse)


def ordered(views: Sequence[View], key: str) -> tuple[View, ...]:
    """Return views in the one order that they have everywhere.

    Raises
    ------
    ParamsError
        One is named twice, or ``center`` is not among them; the message begins with `key`.
    """
    if len(set(views)) != len(views):
        raise ParamsError(f"{key}: each view may be named once, found {', '.join(views)}.")
    if CENTER not in views:
        raise ParamsError(
            f"{key}: expected {CENTER} among them, by which an image is mapped, audited and exported, "
            f"found {', '.join(views) or 'none'}."
        )
    return tuple(view for view in VIEWS if view in views)
