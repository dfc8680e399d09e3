from __future__ import annotations

import subprocess
import sys
import threading
import time

from pipeline.ahead import begin


def test_begin__returns_at_once_and_goes_on_in_order() -> None:
    release, done, calls = threading.Event(), threading.Event(), []

    def first() -> None:
        release.wait(10)
        calls.append("first")

    def second() -> None:
        calls.append("second")
        done.set()

    begin(first, second)
    assert calls == []
    release.set()
    assert done.wait(10)
    assert calls == ["first", "second"]


def test_begin__an_error_is_left_to_the_one_who_needs_it() -> None:
    done = threading.Event()

    def fails() -> None:
        raise ImportError("not here")

    begin(fails, done.set)  # a warning of an exception in a thread would be an error here
    assert done.wait(10)


def test_begin__keeps_no_process_waiting() -> None:
    started = time.monotonic()
    code = "import time; from pipeline.ahead import begin; begin(lambda: time.sleep(60))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert time.monotonic() - started < 30
