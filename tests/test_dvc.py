"""The stages under DVC: what runs again after which change, and what does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.conftest import write_images

ROOT = Path(__file__).resolve().parents[1]
DVC = Callable[..., str]


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))


@pytest.fixture
def dvc(workspace: Workspace, tmp_path: Path) -> DVC:
    """Run `dvc` in the workspace; returns what it printed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc-site"),
    }

    def invoke(*arguments: str) -> str:
        done = subprocess.run(
            ["dvc", *arguments],
            cwd=workspace.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"$ dvc {' '.join(arguments)}\n{done.stdout}")
        assert done.returncode == 0
        return done.stdout

    return invoke


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(.*)'", output))


def test_repro_runs_what_a_change_asks_for_and_nothing_else(
    workspace: Workspace, source: Path, dvc: DVC
) -> None:
    heads = {"knn": {"estimator": "knn"}, "logreg": {"estimator": "logreg"}}
    write_params(workspace.params_file, {"heads": heads})
    of_heads = {f"{stage}@{head}" for stage in ("train", "evaluate") for head in heads} | {"test"}

    first = dvc("repro")
    assert stages_run(first) == {"prepare", "extract", "test"} | of_heads
    assert "40 images computed, 0 taken from the store" in first
    assert json.loads(workspace.metrics_file("logreg", "test").read_bytes())["n"] == 6

    second = dvc("repro")
    assert stages_run(second) == {"prepare"}
    assert "nothing has changed" in second

    write_images(source, {"cat": 25, "dog": 25})
    (source / "cat" / "cat-000.png").rename(source / "dog" / "was-a-cat.png")
    grown = dvc("repro")
    assert "10 images computed, 40 taken from the store" in grown  # the relabelled one among these
    assert stages_run(grown) == {"prepare", "extract"} | of_heads

    index = workspace.index_file.read_bytes()
    for shard in workspace.store_folder.glob("*.h5"):
        shard.unlink()
    write_params(workspace.params_file, {"heads.knn.params": {"n_neighbors": 3}})
    wiped = dvc("repro")
    assert stages_run(wiped) == {"prepare", "extract", "train@knn", "evaluate@knn"}
    assert "50 images computed, 0 taken from the store" in wiped
    assert workspace.index_file.read_bytes() == index

    assert "logreg.val.json" in dvc("metrics", "show")
    plots = json.loads(dvc("plots", "show", "--json"))
    assert list(plots["data"]) == [
        f"reports/plots/{scored}.confusion.csv" for scored in ("knn.val", "logreg.val", "logreg.test")
    ]


def test_the_repository_and_new_workspaces_have_the_same_stages() -> None:
    """But for their dependencies: the repository's own code, or its version."""
    here, new = (
        read_yaml(path)["stages"]
        for path in (ROOT / "dvc.yaml", ROOT / "pipeline" / "templates" / "dvc.yaml")
    )
    assert list(here) == list(new)
    for stages in (here, new):
        for stage in stages.values():
            body = stage.get("do", stage)
            body["deps"] = [path for path in body.get("deps", []) if not path.startswith("pipeline/")]
            body["params"] = [key for key in body.get("params", []) if not key.startswith("versions.")]
    assert here == new


def test_the_repository_names_the_code_of_each_stage() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        code = [path for path in stage.get("do", stage)["deps"] if path.startswith("pipeline/")]
        assert code, name
        assert all((ROOT / path).exists() for path in code)


def test_the_repository_has_the_parameters_of_a_new_workspace() -> None:
    here, new = (ROOT / "params.yaml", ROOT / "pipeline" / "templates" / "params.yaml")
    assert here.read_text("utf-8") == new.read_text("utf-8")
