from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ParamsError, WorkspaceError
from pipeline.heads.memory import Memory, free_memory, parsed_size, said_size


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(".matrix.*.tmp"))


def test_empty__within_the_budget_is_memory(tmp_path: Path) -> None:
    array = Memory(tmp_path, 80).empty((10, 2), np.float32)
    assert type(array) is np.ndarray
    assert array.shape == (10, 2)
    assert array.dtype == np.float32
    assert list(tmp_path.iterdir()) == []


def test_empty__beyond_it_is_a_file_that_goes_with_the_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = Memory(tmp_path / "cache", 79).empty((10, 2), np.float32)
    array[:] = np.arange(20).reshape(10, 2)
    (path,) = files(tmp_path / "cache")
    assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(np.fromfile(path, np.float32), np.arange(20))
    assert str(array.filename) == str(path)  # by which joblib gives it to other processes
    assert capsys.readouterr().err == (
        f"10 rows of features take 80 bytes, and 79 bytes of memory may be used: "
        f"they go to a temporary file in {tmp_path / 'cache'}\n"
    )
    del array
    gc.collect()
    assert files(tmp_path / "cache") == []


def test_empty__what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    (tmp_path / ".matrix.00000000.tmp").write_bytes(b"left")
    first = Memory(tmp_path, 0).empty((4, 4), np.float16)
    assert len(files(tmp_path)) == 1
    second = Memory(tmp_path, 0).empty((4, 4), np.float16)
    assert len(files(tmp_path)) == 2
    first[:], second[:] = 1, 2
    assert first.sum() == 16


def test_empty__file_goes_when_the_process_ends(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from pipeline.heads.memory import Memory
kept = Memory(Path(sys.argv[1]), 0).empty((4, 4), "f4")
assert len(list(Path(sys.argv[1]).iterdir())) == 1
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []


def test_empty__disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(WorkspaceError, match=r"800 bytes of features .* disk has 10 bytes left.*--memory"):
        Memory(tmp_path, 100).empty((10, 20), np.float32)
    assert list(tmp_path.iterdir()) == []


def test_free_memory__is_some_of_the_machine() -> None:
    assert 0 < free_memory() < 1 << 50


def test_of__takes_half_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.heads.memory.free_memory", lambda: 1001)
    assert Memory.of(tmp_path).budget == 500
    assert Memory.of(tmp_path, 0).budget == 0


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 2048 * 1024), ("1000000", 1_000_000), ("", 2048 * 1024)]
)
def test_free_memory__in_a_container(monkeypatch: pytest.MonkeyPatch, limit: str, expected: int) -> None:
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n", "/sys/fs/cgroup/memory.max": limit}
    monkeypatch.setattr(Path, "read_text", lambda path: texts[str(path)])
    assert free_memory() == expected


def test_free_memory__where_linux_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    assert free_memory() == 2_048_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4g", 4_000_000_000),
        ("1.5 GiB", 1536 * 2**20),
        ("500M", 500_000_000),
        ("64kib", 65536),
        ("2T", 2 * 10**12),
        ("1000", 1000),
        ("7 b", 7),
        ("0", 0),
    ],
)
def test_parsed_size(text: str, size: int) -> None:
    assert parsed_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "4 XB", "-1GB", "1e9", "4GBs", "nan", "9" * 400, "٤GB", "4\x1b[2JGB"]
)
def test_parsed_size__of_no_size(text: str) -> None:
    with pytest.raises(ParamsError, match=r"--memory .*expected a size, such as 4GB") as caught:
        parsed_size(text)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 KB"),
        (2_508_800_000, "2.5 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_said_size(size: int, said: Any) -> None:
    assert said_size(size) == said
