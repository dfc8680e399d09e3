"""How long work took, for people to compare the ways: small files under ``cache/times/``.

Owns these files. No result depends on them, and no identity or digest knows of them: they may be missing,
and what they say is only of the machine that did the work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import sha256_of, write_json
from pipeline.workspace import Workspace


def keep_training(workspace: Workspace, name: str, description: Path, seconds: float) -> None:
    """Write down how long a model learned.

    Parameters
    ----------
    workspace : Workspace
    name : str
        Of the model.
    description : Path
        Its ``model.json``, by whose digest it is known again.
    seconds : float
        Spent in learning.
    """
    write_json(_of_model(workspace, name), {"model_sha256": sha256_of(description), "seconds": seconds})


def training_seconds(workspace: Workspace, name: str, description: Path) -> float | None:
    """Return how long a model learned; None if that is not known of the one that is there now."""
    kept = _read(_of_model(workspace, name))
    if kept is None or kept.get("model_sha256") != sha256_of(description):
        return None
    return float(kept["seconds"])


def count_rows(workspace: Workspace, identity: Mapping[str, Any], rows: int, seconds: float) -> None:
    """Add to what is known of the computing of rows of an identity, as a dictionary."""
    before = _of_identity(workspace, identity) or {"rows": 0, "seconds": 0.0}
    together = {"rows": before["rows"] + rows, "seconds": before["seconds"] + seconds}
    write_json(_of_rows(workspace, identity), {"identity": identity, **together})


def seconds_a_row(workspace: Workspace, identity: Mapping[str, Any]) -> float | None:
    """Return how long a row of an identity took on average; None if that is not known."""
    kept = _of_identity(workspace, identity)
    return kept["seconds"] / kept["rows"] if kept and kept["rows"] else None


def _of_model(workspace: Workspace, name: str) -> Path:
    return workspace.times_folder / "models" / f"{name}.json"


def _of_rows(workspace: Workspace, identity: Mapping[str, Any]) -> Path:
    return workspace.times_folder / "rows" / f"{identity['layer']}.json"


def _of_identity(workspace: Workspace, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    kept = _read(_of_rows(workspace, identity), "rows")
    return kept if kept and kept.get("identity") == identity else None


def _read(path: Path, *also: str) -> dict[str, Any] | None:
    """Return what is kept; None where there is nothing, or nothing that is understood."""
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
        return kept if all(kept[name] >= 0 for name in ("seconds", *also)) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
