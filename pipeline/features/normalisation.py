"""The normalisation that weights were trained with, noted in the file that holds them.

Owns the note: an entry in the metadata of a safetensors file. Files without one are taken for torchvision's.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from pipeline.console import printable
from pipeline.errors import WeightsError

Channels = tuple[float, float, float]

_ENTRY = "normalisation"


def normalisation_note(mean: Channels, std: Channels) -> dict[str, str]:
    """Return the metadata that say what images are normalised with: one entry, so that its place is fixed."""
    return {_ENTRY: json.dumps({"mean": list(mean), "std": list(std)})}


def noted_normalisation(file: Path) -> tuple[Channels, Channels] | None:
    """Read mean and standard deviation of red, green and blue in [0, 1] from a file of weights.

    Parameters
    ----------
    file : Path
        Of any kind. What is no safetensors file has no note, and whether it is one that can be read is not
        for this function to say.

    Returns
    -------
    tuple of tuple of float, or None
        Mean and standard deviation; None where nothing is noted.

    Raises
    ------
    WeightsError
        Something is noted, and it is no normalisation.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "numpy") as content:
            note = (content.metadata() or {}).get(_ENTRY)
    except (SafetensorError, OSError):
        return None
    if note is None:
        return None
    try:
        noted = json.loads(note)
        return _channels(noted["mean"], lowest=-math.inf), _channels(noted["std"], lowest=0.0)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"extract.weights: {printable(str(file))} notes a normalisation that is none "
            f"({printable(str(error))}): expected mean and std, three numbers each, std above 0. Write the "
            f"file again."
        ) from None


def _channels(values: object, lowest: float) -> Channels:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"found {values!r}")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= lowest:
            raise ValueError(f"found {value!r}")
    red, green, blue = map(float, values)
    return red, green, blue
