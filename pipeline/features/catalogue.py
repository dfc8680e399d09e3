"""Which shard has each row: read from the shards themselves, in a second for millions of rows.

Owns the answer to what a store holds. It reads keys and no features, so what it says of a shard
is proved only when the shard is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import counted, warn
from pipeline.digests import Folded, in_order
from pipeline.errors import DamagedShard, MissingRows
from pipeline.features.layout import RowKey
from pipeline.features.parallel import in_parallel
from pipeline.features.prints import prints_of_keys
from pipeline.features.shard import ShardFormat

_NONE = -1
_AT_ONCE = 1 << 20  # rows that are looked up together


class Catalogue:
    """Shards by row key: 20 bytes a row, sorted.

    Parameters
    ----------
    folder : Path
        The store, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._heads = self._tails = np.empty(0, np.uint64)
        self._shards = np.empty(0, np.uint32)  # positions in `_paths`
        self._added: dict[RowKey, int] = {}
        self._unusable: list[Path] = []

    @classmethod
    def of(cls, folder: Path, form: ShardFormat, shards: Iterable[Path]) -> Catalogue:
        """Read the keys in shards; what is no shard is left out, with a warning: its rows are missing."""
        catalogue = cls(folder)

        def read(path: Path) -> Folded | Exception:
            try:
                return form.prints(path)
            except (DamagedShard, MissingRows, OSError) as error:
                return error

        heads, tails, rows = [], [], []
        paths = list(shards)
        for path, found in zip(paths, in_parallel(read, paths), strict=True):
            if isinstance(found, Exception):
                warn(str(found))
                catalogue._unusable.append(path)
                continue
            catalogue._paths.append(path)
            heads.append(found[:, 0].copy())
            tails.append(found[:, 1].copy())
            rows.append(len(found))
        if rows:
            catalogue._sort(heads, tails, rows)
        return catalogue

    def _sort(self, heads: list[Folded], tails: list[Folded], rows: Sequence[int]) -> None:
        self._heads, self._tails = np.concatenate(heads), np.concatenate(tails)
        heads.clear()  # as large as what they were made into
        tails.clear()
        order = in_order(self._heads, self._tails)  # of equal ones the later stays behind
        self._heads, self._tails = self._heads[order], self._tails[order]
        self._shards = np.repeat(np.arange(len(rows), dtype=np.uint32), rows)[order]

    def add(self, path: Path, keys: Iterable[RowKey]) -> None:
        """Add a shard; of a row that is in several, the last counts."""
        self._paths.append(path)
        self._added.update(dict.fromkeys(keys, len(self._paths) - 1))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The shards, as far as they can be used."""
        return tuple(dict.fromkeys(self._paths))

    def holds(self, keys: Sequence[RowKey] | Folded) -> npt.NDArray[np.bool_]:
        """Return which of the rows are in a shard; by prints, those that were added are not looked at."""
        found = self._find_prints(keys) if isinstance(keys, np.ndarray) else self._find(keys)
        return np.not_equal(found, _NONE)

    def sought(self, keys: Sequence[RowKey]) -> dict[Path, dict[RowKey, list[int]]]:
        """Return which shards have the rows wanted, and the positions in `keys` of each row.

        Raises
        ------
        MissingRows
            Some are in no shard.
        """
        places = self._find(keys).tolist()
        missing = [key for key, place in zip(keys, places, strict=True) if place == _NONE]
        if missing:
            damaged = f" {self._unusable[0]} cannot be used." if self._unusable else ""
            raise MissingRows(
                f"{self._folder} lacks the features of {len(missing)} of {counted(len(keys), 'image')} "
                f"(first: {missing[0].sha256[:12]}…, view {missing[0].view}).{damaged} "
                f"Run `pipeline extract`."
            )
        sought: dict[Path, dict[RowKey, list[int]]] = {}
        for number, (key, place) in enumerate(zip(keys, places, strict=True)):
            sought.setdefault(self._paths[place], {}).setdefault(key, []).append(number)
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

    def _find(self, keys: Sequence[RowKey]) -> npt.NDArray[np.int64]:
        """Return the shard of each row, or `_NONE`."""
        found = self._find_prints(prints_of_keys(keys))
        if self._added:
            for number, key in enumerate(keys):
                found[number] = self._added.get(key, found[number])
        return found

    def _find_prints(self, prints: Folded) -> npt.NDArray[np.int64]:
        found = np.full(len(prints), _NONE, np.int64)
        for start in range(0, len(prints), _AT_ONCE):
            self._find_some(prints[start : start + _AT_ONCE], found[start : start + _AT_ONCE])
        return found

    def _find_some(self, prints: Folded, found: npt.NDArray[np.int64]) -> None:
        heads, tails = prints[:, 0], prints[:, 1]
        places = np.empty(len(prints), np.int64)
        ascending = np.argsort(heads)  # so that the search goes through memory, and does not jump in it
        places[ascending] = np.searchsorted(self._heads, heads[ascending], side="right") - 1
        left = np.arange(len(prints))
        while left.size:  # once, but for different keys whose heads are equal
            left = left[places[left] >= 0]
            left = left[self._heads[places[left]] == heads[left]]
            same = self._tails[places[left]] == tails[left]
            found[left[same]] = self._shards[places[left[same]]]
            left = left[~same]
            places[left] -= 1
