"""`pipeline extract`: what is printed, and the exit codes. What is done is tested with the features."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace

Run = Callable[..., Result]


@pytest.fixture
def prepared(workspace: Workspace, run: Run) -> Workspace:
    """Forty images in the manifest, nothing extracted."""
    run("prepare")
    return workspace


def test_extract__what_was_done(prepared: Workspace, run: Run) -> None:
    assert run("extract").stdout == "40 images computed, 0 taken from the store\n"
    for arguments in (["extract"], ["extract", "--dry-run"]):
        result = run(*arguments)
        assert result.stdout == "nothing to extract: the store holds all 40 images\n"
        assert result.stderr == "new images are found by `pipeline prepare`\n"


def test_extract__json(prepared: Workspace, run: Run) -> None:
    report = json.loads(run("extract", "--json").stdout)
    assert report["seconds"].keys() == {"decode", "forward", "write"}
    del report["seconds"]
    assert report == {"images": 40, "computed": 40, "reused": 0, "copies": 0, "failed": 0}
    result = run("extract", "--json")
    assert (json.loads(result.stdout)["reused"], result.stderr) == (40, "")


@pytest.mark.parametrize("as_json", [True, False])
def test_extract__images_that_failed(prepared: Workspace, run: Run, as_json: bool) -> None:
    source = prepared.root.parent / "photos"
    for name in ("cat/cat-000.png", "dog/dog-001.png"):
        (source / name).unlink()
    result = run("extract", *["--json"] * as_json, code=1)
    assert result.stderr.splitlines()[-1].startswith(
        "pipeline: 2 of 40 images could not be read again, the others are stored (first: "
    )
    if as_json:
        report = json.loads(result.stdout)
        assert (report["computed"], report["failed"]) == (38, 2)
    else:
        assert result.stdout == ""


def test_extract__fresh(prepared: Workspace, run: Run) -> None:
    run("extract")
    result = run("extract", "--fresh")
    assert f"the features in {prepared.store_folder} are of this extractor already: kept" in result.stderr
    write_params(prepared.params_file, {"extract.storage": "float32"})
    assert "storage float16 against float32" in run("extract", "--dry-run", code=1).stderr
    said = run("extract", "--fresh", "--dry-run").stdout
    assert said.startswith(
        "40 rows of another extractor to be removed\n40 images to compute, 0 in the store\n"
    )
    report = json.loads(run("extract", "--fresh", "--dry-run", "--json").stdout)
    assert (report["to_remove"], report["to_compute"], report["failed"]) == (40, 40, [])
    assert run("extract", "--fresh").stdout == "40 images computed, 0 taken from the store\n"


def test_extract__verify_with_dry_run(prepared: Workspace, run: Run) -> None:
    assert "give it without --verify" in run("extract", "--dry-run", "--verify", code=2).stderr
