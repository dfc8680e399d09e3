"""Images that are dark, blurred or tiny beside the rest: by their pixels, as the network sees them.

Owns what counts as such. Pixels are looked at in workers that may die of it (`pipeline.workers`).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import progress
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources.names import image_file
from pipeline.dataset.verdicts import reader_version
from pipeline.files import write_atomically
from pipeline.results.audit.findings import Oddity
from pipeline.workers import ask

if TYPE_CHECKING:
    from PIL import Image

# Pixels of the shorter side: the network sees 224, and of less than 64 it sees mostly what resizing made up.
_TINY = 64
# Level that 95 % of the pixels do not exceed. Of 1,000 photographs the darkest has 89; at an eighth of their
# light they have 18 to 30.
_DARK = 64
# Variance of the Laplacian over the variance of levels. Of 1,000 photographs three are below, which are
# blurred, and the median is 0.1. Blurred by a Gaussian of 0.6 % of the longer side, 90 % are below; by 0.8 %,
# nearly all.
_BLURRED = 0.005
# What holds for the data set as a whole, such as for drawings of 8 × 8 pixels, makes no image odd.
_OF_MEDIAN = 0.5
# Pixels that the measures are taken of: those of the network's default view, whatever its own.
_RESIZE, _SIZE = 256, 224
_AHEAD = 256
# Of what is remembered; raise it when a measure changes.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Look:
    """What was measured of one image.

    Attributes
    ----------
    light : int
        Level, of 255, that 95 % of the pixels do not exceed.
    sharpness : float
        Variance of the Laplacian over the variance of the levels; 0 for a single level.
    """

    light: int
    sharpness: float


def looks(images: Sequence[ImageRow], root: Path, memory: Path) -> list[Look | None]:
    """Measure images, each once.

    Parameters
    ----------
    images : sequence of ImageRow
    root : Path
        Folder of the source.
    memory : Path
        Where measures are kept by the hash of the image (JSON); disposable.

    Returns
    -------
    list of Look or None
        None for a file that is gone, or that is not the one in the manifest.

    Raises
    ------
    ManifestError
        A path leads out of the source.
    """
    known = _recalled(memory)
    new = [image for image in images if image.sha256 not in known]
    requests = [{"file": os.fspath(image_file(image.path, root))} for image in new]
    if requests:
        workers = max(1, min(os.cpu_count() or 1, len(new)))
        answers = ask("pipeline.results.audit.appearance", requests, workers=workers, ahead=_AHEAD)
        with progress("looking", len(new)) as advance:
            for image, given in zip(new, answers, strict=True):
                if given.values.get("sha256") == image.sha256:
                    known[image.sha256] = Look(given.values["light"], given.values["sharpness"])
                advance(1)
        _remember(memory, {image.sha256: known[image.sha256] for image in images if image.sha256 in known})
    return [known.get(image.sha256) for image in images]


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Measure ``request["file"]``; this runs in the worker."""
    from pipeline.dataset.examiner import look_at
    from pipeline.features.transforms import to_pixels

    verdict, image = look_at(Path(request["file"]))
    if image is None:
        return {}, b""
    return {"sha256": verdict.sha256, **asdict(measured(to_pixels(image, _RESIZE, _SIZE)))}, b""


def measured(image: Image.Image) -> Look:
    """Measure an image, RGB, of the size that the thresholds are for.

    References
    ----------
    J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000
    (variance of the Laplacian).
    """
    from PIL import ImageFilter, ImageStat

    grey = image.convert("L")
    below = accumulate(grey.histogram())
    enough = 0.95 * grey.width * grey.height
    light = next(level for level, count in enumerate(below) if count >= enough)
    variance = ImageStat.Stat(grey).var[0]
    laplacian = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)
    edges = grey.filter(laplacian).crop((1, 1, grey.width - 1, grey.height - 1))  # Pillow leaves the border
    return Look(light, ImageStat.Stat(edges).var[0] / variance if variance else 0.0)


def tiny(images: Sequence[ImageRow]) -> tuple[Oddity, ...]:
    """Find images of few pixels, from the manifest alone; the smallest first."""
    return _below(images, [min(image.width, image.height) for image in images], _TINY, 0)


def dark(images: Sequence[ImageRow], found: Sequence[Look | None]) -> tuple[Oddity, ...]:
    """Find images without light, the darkest first."""
    return _below(images, [None if look is None else look.light for look in found], _DARK, 0)


def blurred(images: Sequence[ImageRow], found: Sequence[Look | None]) -> tuple[Oddity, ...]:
    """Find images without edges, the most blurred first."""
    return _below(images, [None if look is None else look.sharpness for look in found], _BLURRED, 5)


def _below(
    images: Sequence[ImageRow], values: Sequence[float | None], threshold: float, digits: int
) -> tuple[Oddity, ...]:
    known = [value for value in values if value is not None]
    if not known:
        return ()
    limit = min(threshold, _OF_MEDIAN * statistics.median(known))
    oddities = [
        Oddity(image.path, image.split, round(value, digits))
        for image, value in zip(images, values, strict=True)
        if value is not None and value < limit
    ]
    return tuple(sorted(oddities, key=lambda oddity: (oddity.value, oddity.path)))


def _recalled(memory: Path) -> dict[str, Look]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        stored = json.loads(memory.read_bytes())
        if stored["version"] == [_VERSION, reader_version()]:
            return {
                sha256: Look(int(light), float(sharp)) for sha256, (light, sharp) in stored["looks"].items()
            }
    return {}


def _remember(memory: Path, known: dict[str, Look]) -> None:
    values = {sha256: [look.light, look.sharpness] for sha256, look in sorted(known.items())}
    stored = {"version": [_VERSION, reader_version()], "looks": values}
    write_atomically(memory, json.dumps(stored, separators=(",", ":")))
