"""Which packages are installed, and which extras are complete.

Owns the comparison with what the distribution asks for. It imports none of them.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib import metadata

from pipeline.results.doctor.check import Check

#: What the project is called where packages come from.
DISTRIBUTION = "feature-cache-pipeline"
_REQUIREMENT = re.compile(r"""([\w.-]+)[^;>]*(?:>=\s*([\d.]+))?[^;]*(?:;.*\bextra == ["'](\w+)["'])?""")
_FOR_DEVELOPERS = "dev"


def python() -> Check:
    """Which Python runs this."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Check]:
    """Whether the packages are there that are required, and, extra by extra, those that are not."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Check("packages", "fail", f"{DISTRIBUTION} is not installed", "In a checkout: pip install -e .")
        return
    wanted: dict[str, list[tuple[str, str]]] = {"": []}
    for requirement in requirements:
        if found := _REQUIREMENT.match(requirement):
            name, least, extra = (part or "" for part in found.groups())
            wanted.setdefault(extra, []).append((name, least))
    wanted.pop(_FOR_DEVELOPERS, None)
    for extra, group in wanted.items():
        faults = [fault for name, least in group if (fault := _fault(name, least))]
        if not faults:
            there = ", ".join(f"{name} {metadata.version(name)}" for name, _ in group)
            yield Check(f"extra {extra}" if extra else "packages", "ok", there)
        elif extra:
            remedy = f"If you want it: pip install '{DISTRIBUTION}[{extra}]', in a checkout '.[{extra}]'"
            yield Check(f"extra {extra}", "warn", ", ".join(faults), remedy)
        else:
            remedy = f"pip install --upgrade {DISTRIBUTION}, in a checkout pip install -e ."
            yield Check("packages", "fail", ", ".join(faults), remedy)


def _fault(name: str, least: str) -> str:
    """Say what is wrong with a package; nothing if nothing is."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} is {found}, below {least}" if _numbers(found) < _numbers(least) else ""


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()
