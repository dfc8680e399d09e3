"""Checks of `pipeline doctor`, by name."""

from __future__ import annotations

from pipeline.results.doctor import packages
from pipeline.results.doctor.check import Check


def by_name() -> dict[str, Check]:
    return {check.name: check for check in packages.packages()}
