"""Which shard has each row: read from the shards themselves, in a millisecond for thousands of rows.

Owns the answer to what a store holds. It reads keys and no features, so what it says of a shard
is proved only when the shard is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.console import counted, warn
from pipeline.errors import DamagedShard, MissingRows
from pipeline.features.layout import RowKey
from pipeline.features.shard import ShardFormat


class Catalogue:
    """Shards by row key.

    Parameters
    ----------
    folder : Path
        The store, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[RowKey, Path] = {}
        self._unusable: list[Path] = []

    @classmethod
    def of(cls, folder: Path, form: ShardFormat, shards: Iterable[Path]) -> Catalogue:
        """Read the keys in shards; what is no shard is left out, with a warning: its rows are missing."""
        catalogue = cls(folder)
        for path in shards:
            try:
                catalogue.add(path, form.contents(path).keys)
            except (DamagedShard, MissingRows, OSError) as error:
                warn(str(error))
                catalogue._unusable.append(path)
        return catalogue

    def add(self, path: Path, keys: Iterable[RowKey]) -> None:
        """Add a shard; of a row that is in several, the last counts."""
        self._shards.update(dict.fromkeys(keys, path))

    def keys(self) -> set[RowKey]:
        """Return the keys of all rows."""
        return set(self._shards)

    def sought(self, keys: Sequence[RowKey]) -> dict[Path, dict[RowKey, list[int]]]:
        """Return which shards have the rows wanted, and the positions in `keys` of each row.

        Raises
        ------
        MissingRows
            Some are in no shard.
        """
        missing = [key for key in keys if key not in self._shards]
        if missing:
            damaged = f" {self._unusable[0]} cannot be used." if self._unusable else ""
            raise MissingRows(
                f"{self._folder} lacks the features of {len(missing)} of {counted(len(keys), 'image')} "
                f"(first: {missing[0].sha256[:12]}…, view {missing[0].view}).{damaged} "
                f"Run `pipeline extract`."
            )
        sought: dict[Path, dict[RowKey, list[int]]] = {}
        for place, key in enumerate(keys):
            sought.setdefault(self._shards[key], {}).setdefault(key, []).append(place)
        return sought

    def blocks(self, keys: Sequence[RowKey], size: int) -> Iterator[list[int]]:
        """Yield the positions of all keys, at most `size` at once, so that hardly a shard is in two blocks.

        Raises
        ------
        MissingRows
            Some are in no shard.
        """
        block: list[int] = []
        for rows in self.sought(keys).values():
            places = [place for same in rows.values() for place in same]
            if len(block) + len(places) > size and block:
                yield block
                block = []
            while len(places) > size:
                yield places[:size]
                places = places[size:]
            block += places
        if block:
            yield block
