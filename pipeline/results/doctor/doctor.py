"""``pipeline doctor``: one look at everything, each thing for itself.

Owns the order. Nothing is changed, and what is wrong with one thing keeps none of the others from being
looked at.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.console import printable
from pipeline.params import ExtractParams
from pipeline.results.doctor.check import Check, looked_at
from pipeline.results.doctor.packages import packages, python
from pipeline.workspace import Workspace


def doctor(root: Path) -> list[Check]:
    """Look at the machine, and at the workspace in a folder if there is one.

    Parameters
    ----------
    root : Path
        Whatever is there, or not.

    Returns
    -------
    list of Check
    """
    checks = [python(), *packages()]
    try:
        from pipeline.results.doctor import machine
        from pipeline.results.doctor.state import weights, workspace_checks
    except ImportError as error:
        remedy = "Install what is missing: see packages"
        return [*checks, Check("all else", "fail", f"cannot be looked at: {error}", remedy)]

    checks += [looked_at("device", machine.device), machine.memory(), machine.programs()]
    if (root / "params.yaml").is_file():
        return [*checks, *workspace_checks(Workspace(root))]
    usual = ExtractParams()
    return [
        *checks,
        looked_at("backend", partial(machine.backend, usual)),
        looked_at("weights", partial(weights, usual, root)),
        machine.disk(root),
        Check(
            "workspace",
            "warn",
            f"none in {printable(str(root.absolute()))}",
            "Make one with pipeline init DIR, or name one: pipeline --root DIR doctor",
        ),
    ]
