"""Looking into files in processes that may die: what they find, and what is left when they do."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline import workers
from pipeline.dataset import verdicts
from pipeline.dataset.examiner import look_at
from pipeline.dataset.verdicts import Verdict, examine
from pipeline.errors import PipelineError
from tests import hostile

BAD_IMAGES = Path(__file__).parents[3] / "shared" / "bad-images"


def png(width: int = 5, height: int = 3) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image.png"
    file.write_bytes(png())
    return file


def children() -> set[int]:
    """Return the examiners that this process has running."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 2) for line in listing.stdout.splitlines())
    return {int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and "examiner" in args}


def test_verdicts_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    files, expected = [], []
    for index in range(20):
        data = png(width=index + 1) if index % 3 else b"no image %d" % index
        file = tmp_path / f"{index}.png"
        file.write_bytes(data)
        files.append(file)
        size = (index + 1, 3) if index % 3 else (0, 0)
        reason = "" if index % 3 else "unsupported_format"
        expected.append(Verdict(hashlib.sha256(data).hexdigest(), len(data), *size, reason))
    assert list(examine(files)) == expected
    assert children() == set()


def test_hash_only(image: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(png()[:40])
    found = list(examine([image, damaged], decode=False))
    assert found == [
        Verdict(hashlib.sha256(png()).hexdigest(), len(png())),
        Verdict(hashlib.sha256(png()[:40]).hexdigest(), 40),
    ]
    assert not found[0].final


def test_names_may_hold_anything(tmp_path: Path) -> None:
    names = [
        b"quote'\"`$(x).png",
        b"line\nfeed.png",
        b"latin-\xe9.png",
        b"x" * 251 + b".png",
        "图片.png".encode(),
    ]
    files = []
    for name in names:
        try:
            (tmp_path / os.fsdecode(name)).write_bytes(png())
        except OSError:  # a file system that takes UTF-8 names only
            continue
        files.append(tmp_path / os.fsdecode(name))
    assert len(files) >= 4
    assert [verdict.reason for verdict in examine(files)] == [""] * len(files)


def test_what_is_not_a_readable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(tmp_path, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/s" if Path("/proc/self/fd").exists() else str(tmp_path / "s"))
        os.close(folder)
        names = ["fifo", "folder", "loop", "empty", "absent", "empty/inside", "s"]
        reasons = [verdict.reason for verdict in examine([tmp_path / name for name in names])]
    assert dict(zip(names, reasons, strict=True)) == {
        "fifo": "not_regular",
        "folder": "not_regular",
        "loop": "unreadable",
        "empty": "empty_file",
        "absent": "vanished",
        "empty/inside": "vanished",
        "s": "unreadable",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_mode_000(image: Path) -> None:
    image.chmod(0)
    assert look_at(image) == (Verdict(reason="unreadable"), None)


def test_permission_denied(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert look_at(image) == (Verdict(reason="unreadable"), None)


@pytest.mark.parametrize("then", [b"more", b""])
def test_a_file_that_changes_while_it_is_read(
    then: bytes, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat, calls = os.fstat, []

    def change_after_the_first_look(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        calls.append(descriptor)
        if len(calls) == 1:
            image.write_bytes(png() + then)
            os.utime(image, ns=(1, 1))
        return status

    monkeypatch.setattr(os, "fstat", change_after_the_first_look)
    assert look_at(image) == (Verdict(reason="changed_while_read"), None)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "huge.png"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    assert [verdict.reason for verdict in examine([sparse])] == ["too_large"]


def test_crash_and_hang_cost_one_image_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.run_first(monkeypatch, tmp_path, hostile.DECODER)
    monkeypatch.setattr(verdicts, "ask", functools.partial(workers.ask, timeout=1))
    contents = [png(), b"crash", png(), b"hang", png(), b"crash", png()]
    files = [tmp_path / f"{index}.png" for index in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    found = [verdict.reason for verdict in examine(files)]
    assert found == ["", "decoder_crashed", "", "timeout", "", "decoder_crashed", ""]
    assert children() == set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_AS")
def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.run_first(
        monkeypatch,
        tmp_path,
        """
from pipeline import worker
from pipeline.dataset import examiner
from pipeline.dataset.images import UndecodableImage
def decode(data):
    try:
        bytes(worker.MAX_MEMORY)
    except MemoryError:
        raise UndecodableImage("out_of_memory", "")
examiner.decode = decode
""",
    )
    image = tmp_path / "image.png"
    image.write_bytes(png())
    assert [verdict.reason for verdict in examine([image])] == ["out_of_memory"]


def test_a_broken_installation_is_said_and_not_put_on_the_images(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('no Pillow here')")
    hostile.run_first(monkeypatch, tmp_path, "")
    with pytest.raises(PipelineError, match="did not start"):
        list(examine([image, image]))
    assert children() == set()


def test_examiners_load_no_numerical_package() -> None:
    script = (
        "import sys; import pipeline.dataset.examiner\n"
        "print([name for name in ('numpy', 'torch', 'sklearn', 'h5py') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="the shared odd images are not beside the project")
def test_odd_images_get_the_verdict_they_must() -> None:
    with (BAD_IMAGES / "manifest.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    found = list(examine([BAD_IMAGES / row["file"] for row in rows]))
    assert [verdict.sha256 for verdict in found] == [row["sha256"] for row in rows]
    wrong = [
        (row["file"], row["expect"], verdict.reason)
        for row, verdict in zip(rows, found, strict=True)
        if row["expect"] == ("quarantine" if verdict.reason == "" else "accept")
        or verdict.reason in {"timeout", "decoder_crashed"}
    ]
    assert wrong == []


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="the shared odd images are not beside the project")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kilobytes on Linux only")
def test_odd_images_are_decoded_in_less_than_a_gigabyte() -> None:
    # in a process of its own, whose children are these examiners alone
    script = (
        "import resource, sys; from pathlib import Path; from pipeline.dataset.verdicts import examine\n"
        "list(examine(sorted(Path(sys.argv[1]).iterdir())))\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, BAD_IMAGES], capture_output=True, text=True, check=True
    )
    assert 10_000 < int(done.stdout) < 1_000_000
