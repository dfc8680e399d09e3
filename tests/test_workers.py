"""Processes that may be lost: what is asked is answered in order, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline import workers
from pipeline.errors import PipelineError
from pipeline.workers import Answer, ask
from tests import hostile

ODD = """
import os, signal, time

def answer(request):
    what = request["what"]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(0)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "half":
        os.write(int(request["frames"]), b"\\0\\0")
        os._exit(0)
    if what == "hang":
        time.sleep(60)
    if what == "slow":
        time.sleep(0.3)
    if what == "print":
        print("words")
        os.write(2, b"words")
    return {"what": what, "pid": os.getpid()}, b"x" * request.get("bytes", 0)
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that answers as it is told."""
    (tmp_path / "odd_answers.py").write_text(textwrap.dedent(ODD))
    hostile.put_on_path(monkeypatch, tmp_path)
    return "odd_answers"


def requests(*what: str) -> list[dict[str, object]]:
    return [{"what": word} for word in what]


def test_answers_come_in_the_order_of_the_requests(odd: str) -> None:
    words = ["slow", *map(str, range(20)), "slow", "last"]
    found = list(ask(odd, requests(*words), workers=3, ahead=8))
    assert [answer.values["what"] for answer in found] == words
    assert len({answer.values["pid"] for answer in found}) == 3


def test_bytes_of_any_number(odd: str) -> None:
    sizes = [0, 1, 65_536, 3_000_000]
    found = list(ask(odd, [{"what": "", "bytes": size} for size in sizes], workers=1, ahead=2))
    assert [bytes(answer.data) for answer in found] == [b"x" * size for size in sizes]


def test_a_lost_worker_costs_one_answer(odd: str) -> None:
    words = ["a", "crash", "b", "hang", "c", "exit", "d"]
    found = list(ask(odd, requests(*words), workers=2, ahead=4, timeout=1))
    assert [answer.lost for answer in found] == [
        "",
        "decoder_crashed",
        "",
        "timeout",
        "",
        "decoder_crashed",
        "",
    ]
    assert [answer.values.get("what") for answer in found] == ["a", None, "b", None, "c", None, "d"]
    assert found[1] == Answer({}, b"", "decoder_crashed")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_cannot_end_itself_is_killed(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_GRACE", 0.5)
    found = list(ask(odd, requests("a", "stop", "b"), workers=1, ahead=1, timeout=0.5))
    assert [answer.lost for answer in found] == ["", "timeout", ""]
    assert not Path(f"/proc/{found[0].values['pid']}").exists()


def test_what_a_worker_prints_goes_nowhere(odd: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert [answer.lost for answer in ask(odd, requests("print", "a"), workers=1, ahead=1)] == ["", ""]
    assert capfd.readouterr() == ("", "")


def test_no_more_than_asked_are_ahead(odd: str) -> None:
    taken = []

    def watched() -> object:
        for number in range(30):
            taken.append(number)
            yield {"what": str(number) if number else "slow"}

    answers = ask(odd, watched(), workers=2, ahead=5)  # type: ignore[arg-type]
    next(answers)  # the slow one: the other worker has answered as many as may wait
    assert len(taken) == 5
    next(answers)
    assert len(taken) == 6
    answers.close()


def test_a_worker_that_does_not_start_is_said() -> None:
    with pytest.raises(PipelineError, match="did not start"):
        list(ask("no_such_module", requests("a"), workers=1, ahead=1))


@pytest.mark.parametrize("end", ["close", "interrupt"])
def test_leaving_early_leaves_no_process(odd: str, end: str) -> None:
    answers = ask(odd, requests("a", *["hang"] * 20), workers=2, ahead=4)
    first = next(answers)
    if end == "close":
        answers.close()
    else:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(answers)
        timer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(first.values["pid"], 0)


def test_an_orphan_ends(odd: str) -> None:
    script = (
        "import sys; from pipeline import workers; from pipeline.workers import ask\n"
        "workers._python_path = lambda: sys.argv[1]\n"
        "answers = ask('odd_answers', [{'what': 'a'}, {'what': 'hang'}], workers=1, ahead=2, timeout=1)\n"
        "print(next(answers).values['pid'], flush=True); next(answers)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, workers._python_path()], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _is_running(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(orphan)


def _is_running(pid: int) -> bool:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in {"", "Z"}
