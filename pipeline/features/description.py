"""``store.json``: whose features a folder holds, for a refusal before any work."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import MissingRows, StoreError
from pipeline.features.identity import Identity
from pipeline.features.lock import locked
from pipeline.features.shard import FORMAT
from pipeline.files import write_json

_NAME = "store.json"


def is_store(folder: Path) -> bool:
    """Whether a folder says that it is a feature store."""
    return (folder / _NAME).is_file()


def read_description(folder: Path) -> Identity:
    """Return the identity of the rows in a folder.

    Raises
    ------
    MissingRows
        It is no feature store.
    StoreError
        It says something that is not understood.
    """
    if not is_store(folder):
        raise MissingRows(f"{folder}: no features yet. Run `pipeline extract` first.")
    try:
        stored = json.loads((folder / _NAME).read_bytes())
        if stored["format"] != FORMAT:
            raise StoreError(f"format {stored['format']!r} is not known to this release")
        return Identity.from_dict(stored["identity"])
    except (ValueError, KeyError, TypeError, StoreError) as error:
        raise StoreError(
            f"{folder / _NAME}: not a description of a feature store ({error}). "
            f"`pipeline extract --fresh` removes this store and makes it anew."
        ) from None


def clear(folder: Path) -> int:
    """Remove a store, and return how many shards it had. Other files stay."""
    with locked(folder):
        shards = list(folder.glob("*.h5"))
        for path in shards:
            path.unlink()
        forget(folder)  # last: killed half-way, what is left is still a store
    return len(shards)


def forget(folder: Path) -> None:
    """Have a folder be no store any more; to be called with the folder locked."""
    (folder / _NAME).unlink(missing_ok=True)


def write_description(folder: Path, identity: Identity) -> None:
    """Say whose features a folder holds; to be called with the folder locked."""
    write_json(folder / _NAME, {"format": FORMAT, "identity": identity.as_dict()})
