"""From image files to the pixels that the network sees, in workers that may die of it.

Owns the way of the pixels between processes. It says nothing about which image a file should be.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dataset.examiner import examined, read
from pipeline.dataset.verdicts import Verdict
from pipeline.features.transforms import to_views
from pipeline.params import ExtractParams
from pipeline.views import CENTER
from pipeline.workers import TIMEOUT, Answer, ask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Decoded:
    """One file: what it is, and what the network sees of it.

    Attributes
    ----------
    verdict : Verdict
        See there.
    views : ndarray of uint8, shape (v, image_size, image_size, 3), or None
        Red, green and blue, of each view that was asked for; None if the verdict has a reason.
    """

    verdict: Verdict
    views: npt.NDArray[np.uint8] | None

    @property
    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """The first view, shape (image_size, image_size, 3): the only one, unless more were asked for."""
        return None if self.views is None else self.views[0]


def decoded(
    files: Iterable[Path],
    params: ExtractParams,
    *,
    workers: int,
    ahead: int,
    timeout: float = TIMEOUT,
    views: Iterable[Mapping[str, Any]] | None = None,
    by: str = "pipeline.features.decoder",
) -> Generator[Decoded, None, None]:
    """Read, hash, decode, resize and crop image files, in parallel and ahead of their use.

    Parameters
    ----------
    files : iterable of Path
        Anything that can have a name in a folder, absent files included.
    params : ExtractParams
        Of these, `resize` and `image_size`.
    workers : int
        Processes.
    ahead : int
        How many images may wait to be taken.
    timeout : float
        Seconds for one image.
    views : iterable of mapping, optional
        For each of `files` what is said to `by` besides, in values that JSON can hold: to this module
        ``views``, a list of their names, where more is wanted than the centre.
    by : str
        The module whose `answer` makes the pixels, in the manner of this one's.

    Yields
    ------
    Decoded
        One for each of `files`, in their order; reasons as in `pipeline.dataset.verdicts.examine`.
    """
    size = params.image_size
    asked = {"resize": params.resize, "image_size": size}
    pairs = zip(files, itertools.repeat({}) if views is None else views, strict=False)
    requests = ({"file": os.fspath(file), **asked, **view} for file, view in pairs)
    answers = ask(by, requests, workers=workers, ahead=ahead, timeout=timeout)
    try:
        for answer in answers:
            yield decoded_answer(answer, size)
    finally:
        answers.close()


def decoded_answer(answer: Answer, size: int) -> Decoded:
    """Return what a worker says of a file, and the pixels that it sent along, of so many a side."""
    import numpy as np  # the workers, which import this module too, have no use for it

    verdict = Verdict(reason=answer.lost) if answer.lost else Verdict(**answer.values)
    pixels = np.frombuffer(answer.data, np.uint8) if answer.data else None
    return Decoded(verdict, None if pixels is None else pixels.reshape(-1, size, size, 3))


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Decode ``request["file"]``; this runs in the worker."""
    return answer_of(*read(Path(request["file"])), request)


def answer_of(verdict: Verdict, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Decode the bytes of a file, if they could be had."""
    if verdict.reason:
        return asdict(verdict), b""
    verdict, image = examined(verdict, data)
    if image is None:
        return asdict(verdict), b""
    try:
        seen = to_views(image, request["resize"], request["image_size"], request.get("views", (CENTER,)))
        return asdict(verdict), b"".join(view.tobytes() for view in seen)
    except MemoryError:
        return asdict(replace(verdict, reason="out_of_memory")), b""
