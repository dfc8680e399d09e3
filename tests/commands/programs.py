"""The command line as a program of its own."""

from __future__ import annotations

import sys

MAIN = [sys.executable, "-c", "from pipeline.cli import main; main()"]
