"""The format: nothing but the bytes that were written is ever read back."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import DamagedShard, MissingRows, StoreError
from pipeline.features import shard as shard_module
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.layout import RowKey
from pipeline.features.shard import ShardFormat
from tests.features.conftest import MADE_WITH, some_features, some_keys

ROWS = 3


@pytest.fixture
def form(identity: Identity) -> ShardFormat:
    return ShardFormat(identity)


def write(folder: Path, data: bytes) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()}.h5"
    path.write_bytes(data)
    return path


@pytest.fixture
def shard(tmp_path: Path, form: ShardFormat) -> Path:
    """Three rows, 155 KB."""
    return write(tmp_path, form.encode(some_keys(ROWS), some_features(ROWS), MADE_WITH))


def rows_of(form: ShardFormat, path: Path, keys: list[RowKey]) -> npt.NDArray[np.float16]:
    out = np.zeros((len(keys), DIMENSION), np.float16)
    form.copy_rows(path, {key: [place] for place, key in enumerate(keys)}, out)
    return out


def test_copy_rows__to_every_place_that_wants_them(form: ShardFormat, shard: Path) -> None:
    one, two, _ = some_keys(ROWS)
    out = np.full((5, DIMENSION), -1, np.float32)
    form.copy_rows(shard, {two: [0, 4], one: [2]}, out)
    features = some_features(ROWS)
    np.testing.assert_array_equal(out[[0, 2, 4]], features[[1, 0, 1]].astype(np.float32))
    assert (out[[1, 3]] == -1).all()


def test_copy_rows__of_another_shard(form: ShardFormat, shard: Path) -> None:
    with pytest.raises(MissingRows, match=f"{shard} no longer holds 1 rows"):
        rows_of(form, shard, [*some_keys(1), *some_keys(1, 50)])


def test_contents__keys_in_order_and_circumstances(form: ShardFormat, shard: Path) -> None:
    assert form.contents(shard) == (some_keys(ROWS), MADE_WITH)


# Every way in which bytes go wrong, on the shard as a whole


@pytest.fixture
def refused(form: ShardFormat, identity: Identity, shard: Path) -> Callable[[], None]:
    """Check that the shard is refused by name, by who knows shards like it and by who knows none."""
    form.contents(shard)

    def check() -> None:
        for reader in (form, ShardFormat(identity)):
            assert reader.fault(shard)
            with pytest.raises(DamagedShard, match=rf"^{shard} is .+ Run `pipeline extract --verify`"):
                rows_of(reader, shard, some_keys(ROWS))

    return check


def test_every_flipped_bit_is_found(refused: Callable[[], None], shard: Path) -> None:
    """300 single bits anywhere in the file, and 100 where HDF5 keeps its structure."""
    size = shard.stat().st_size
    generator = np.random.default_rng(1)
    structure = [*range(1400), *range(1400 + 2 * DIMENSION * ROWS, size)]
    places = [*generator.integers(0, size, 300), *generator.choice(structure, 100)]
    with shard.open("r+b") as file:
        for place in map(int, places):
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << int(generator.integers(8))]), place)
            refused()
            os.pwrite(file.fileno(), byte, place)


def test_every_torn_page_is_found(refused: Callable[[], None], shard: Path) -> None:
    data = shard.read_bytes()
    torn = 0
    for start in range(0, len(data), 4096):
        page = data[start : start + 4096]
        if any(page):
            shard.write_bytes(data[:start] + bytes(len(page)) + data[start + len(page) :])
            refused()
            torn += 1
    assert torn > 35


def test_every_truncation_is_found(refused: Callable[[], None], shard: Path) -> None:
    data = shard.read_bytes()
    for length in [0, 1, *range(7, len(data), len(data) // 40), len(data) - 1]:
        shard.write_bytes(data[:length])
        refused()


@pytest.mark.parametrize("more", [b"\0", bytes(4096), b"\x89HDF\r\n\x1a\n"])
def test_something_appended(refused: Callable[[], None], shard: Path, more: bytes) -> None:
    with shard.open("ab") as file:
        file.write(more)
    refused()


def test_content_of_another_shard(refused: Callable[[], None], form: ShardFormat, shard: Path) -> None:
    shard.write_bytes(form.encode(some_keys(ROWS, 10), some_features(ROWS, 1), MADE_WITH))
    refused()
    assert form.fault(shard) == "damaged: its bytes do not hash to its name"


def test_other_bytes_put_in_place_since_the_keys_were_read(
    form: ShardFormat, shard: Path, tmp_path: Path
) -> None:
    """The rows that are copied are those of the bytes that are hashed, wherever they were before."""
    keys = some_keys(ROWS)
    turned = write(tmp_path, form.encode(keys[::-1], some_features(ROWS)[::-1], MADE_WITH))
    np.testing.assert_array_equal(rows_of(form, turned, keys), some_features(ROWS))
    turned.replace(shard)
    with pytest.raises(DamagedShard):
        rows_of(form, shard, keys)


def test_a_bad_sector(
    form: ShardFormat, shard: Path, monkeypatch: pytest.MonkeyPatch, identity: Identity
) -> None:
    class Failing(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            if self.tell() + len(buffer) > 50_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    form.contents(shard)
    monkeypatch.setattr(shard_module, "_opened", lambda path: Failing(path))
    for reader in (form, ShardFormat(identity)):
        assert reader.fault(shard) == "damaged: it cannot be read (Input/output error)"


def test_short_reads_are_read_on(form: ShardFormat, shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            return super().readinto(memoryview(buffer)[:999])

    monkeypatch.setattr(shard_module, "_opened", lambda path: Slow(path))
    np.testing.assert_array_equal(rows_of(form, shard, some_keys(ROWS)), some_features(ROWS))


def test_gone(form: ShardFormat, shard: Path) -> None:
    shard.unlink()
    for read in (form.contents, form.fault, lambda path: rows_of(form, path, some_keys(1))):
        with pytest.raises(MissingRows, match=f"{shard} has gone. Run `pipeline extract`"):
            read(shard)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_no_regular_file(form: ShardFormat, tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / f"{'0' * 64}.h5"
    make(path)
    assert form.fault(path) == "no usable shard (not a regular file)"
    with pytest.raises(DamagedShard, match="not a regular file"):
        form.contents(path)


# What HDF5 has told of one shard is used for those like it


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Files that HDF5 was asked about."""
    asked: list[Any] = []
    parse = ShardFormat._parse

    def watched(self: ShardFormat, data: bytes) -> Any:
        asked.append(data)
        return parse(self, data)

    monkeypatch.setattr(ShardFormat, "_parse", watched)
    return asked


def test_hdf5_is_asked_once_for_shards_that_are_alike(
    tmp_path: Path, form: ShardFormat, asked: list[Any]
) -> None:
    for number in range(5):
        keys = some_keys(ROWS, 10 * number)
        path = write(tmp_path, form.encode(keys, some_features(ROWS, number), MADE_WITH))
        assert form.contents(path) == (keys, MADE_WITH)
        np.testing.assert_array_equal(rows_of(form, path, keys), some_features(ROWS, number))
    assert len(asked) == 1


def test_hdf5_is_asked_again_when_anything_but_keys_and_features_differs(
    tmp_path: Path, form: ShardFormat, asked: list[Any]
) -> None:
    for device in ("cpu", "mps"):  # as long as each other, and so are the files
        path = write(tmp_path, form.encode(some_keys(ROWS), some_features(ROWS), {"device": device}))
        assert form.contents(path).made_with == {"device": device}
    assert len(asked) == 2
    assert len(asked[0]) == len(asked[1])


def test_keys_that_are_no_text(form: ShardFormat, shard: Path, identity: Identity) -> None:
    data = shard.read_bytes()
    place = data.index(some_keys(1)[0].sha256.encode())
    shard.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    for reader in (ShardFormat(identity), form):
        with pytest.raises(DamagedShard, match="its keys are no text"):
            reader.contents(shard)


# What is no shard, and would lead to wrong numbers


def test_user_block(form: ShardFormat, shard: Path, tmp_path: Path) -> None:
    """HDF5 counts offsets from behind it: features would be read from the wrong place."""
    made = tmp_path / "made.h5"
    with h5py.File(made, "w", userblock_size=512) as file, h5py.File(shard) as original:
        for name in original:
            file[name] = original[name][...]
        file.attrs["identity"] = original.attrs["identity"]
    assert "something stands before it" in form.fault(write(tmp_path, made.read_bytes()))


def test_features_over_the_keys(form: ShardFormat, shard: Path, tmp_path: Path) -> None:
    data = shard.read_bytes()
    with h5py.File(shard) as file:
        features, keys = (file[name].id.get_offset() for name in ("features", "sha256"))
    moved = data.replace(features.to_bytes(8, "little"), (keys - 2 * DIMENSION).to_bytes(8, "little"))
    assert moved != data
    overlapping = write(tmp_path, moved + bytes(2 * DIMENSION * ROWS))
    assert form.fault(overlapping).startswith("no usable shard (")


def test_larger_than_any_shard(form: ShardFormat, tmp_path: Path) -> None:
    path = tmp_path / f"{'0' * 64}.h5"
    path.touch()
    os.truncate(path, 1 << 40)  # has no blocks, and would not fit into memory
    assert form.fault(path) == f"no usable shard (no shard has {1 << 40} bytes)"


def test_shard_of_another_identity(tmp_path: Path, shard: Path, identity: Identity) -> None:
    other = ShardFormat(replace(identity, resize=300))
    assert other.fault(shard) == "no usable shard (made by another extractor)"


# What is refused when written


@pytest.mark.parametrize("view", ["", "a" * 17, "größer", "line\nbreak", "nul\0"])
def test_encode__view_that_does_not_fit(form: ShardFormat, view: str) -> None:
    key = some_keys(1)[0]._replace(view=view)
    with pytest.raises(StoreError, match=r"row key '.*': expected 1 to 16 ASCII characters"):
        form.encode([key], some_features(1), MADE_WITH)


@pytest.mark.parametrize("sha256", ["", "a" * 65])
def test_encode__hash_that_does_not_fit(form: ShardFormat, sha256: str) -> None:
    with pytest.raises(StoreError, match="expected 1 to 64 ASCII characters"):
        form.encode([RowKey(sha256)], some_features(1), MADE_WITH)


def test_encode__longest_view(tmp_path: Path, form: ShardFormat) -> None:
    key = some_keys(1)[0]._replace(view="five-crops-16-px")
    assert form.contents(write(tmp_path, form.encode([key], some_features(1), MADE_WITH))).keys == [key]
