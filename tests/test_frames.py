"""Frames over a pipe: whole however they come, and the end of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

import pytest

from pipeline.frames import EndOfFrames, Frame, FrameReader, write_frame

SOME = [Frame({"reason": "ä"}, b"x" * 5000), Frame(None, b""), Frame([1, 2.5], b"\0")]


@pytest.fixture
def pipe() -> Iterator[tuple[int, IO[bytes]]]:
    """Make a pipe; its reading end does not block."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "wb") as stream:
        yield reading, stream
    os.close(reading)


def test_frames__come_as_they_were_written(pipe: tuple[int, IO[bytes]]) -> None:
    file, stream = pipe
    for frame in SOME:
        write_frame(stream, frame)
    reader = FrameReader(file)
    assert [reader.read() for _ in SOME] == SOME
    assert reader.read() is None
    stream.close()
    with pytest.raises(EndOfFrames):
        reader.read()


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_frames__piece_by_piece(pipe: tuple[int, IO[bytes]], size: int) -> None:
    file, stream = pipe
    for frame in SOME:
        write_frame(stream, frame)
    sent = os.read(file, 100_000)
    reader, found = FrameReader(file), []
    for start in range(0, len(sent), size):
        os.write(stream.fileno(), sent[start : start + size])
        found += [frame for frame in (reader.read() for _ in SOME) if frame is not None]
    assert found == SOME


def test_frames__the_other_side_goes_in_mid_frame(pipe: tuple[int, IO[bytes]]) -> None:
    file, stream = pipe
    write_frame(stream, SOME[0])
    sent = os.read(file, 100_000)
    os.write(stream.fileno(), sent[:-1])
    reader = FrameReader(file)
    assert reader.read() is None
    stream.close()
    with pytest.raises(EndOfFrames):
        reader.read()
