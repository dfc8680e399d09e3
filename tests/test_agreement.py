from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.agreement import releases, require_alike, require_same
from pipeline.errors import ClusterError


def test_releases__are_those_that_run_here() -> None:
    found = releases()
    assert found["pipeline"] == pipeline.__version__
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__


@pytest.mark.parametrize("name", list(releases()))
def test_require_same__names_what_differs(name: str) -> None:
    require_same(releases())
    with pytest.raises(ClusterError) as caught:
        require_same(releases() | {name: "0.0.1"})
    assert (
        str(caught.value) == f"{name} is {releases()[name]} there, and 0.0.1 here. Install the same on both."
    )


def test_require_same__what_only_one_of_them_knows() -> None:
    with pytest.raises(ClusterError, match=r"^a future package is none there, and 3 here"):
        require_same(releases() | {"a future package": "3"})


def test_require_alike__folders(tmp_path: Path) -> None:
    token = tmp_path / ".token.tmp"
    token.touch()
    require_alike(releases(), token, [tmp_path])
    with pytest.raises(ClusterError, match=rf"^{tmp_path / 'photos'} is not there, .*: share them\."):
        require_alike(releases(), token, [tmp_path, tmp_path / "photos"])
    token.unlink()
    with pytest.raises(ClusterError, match=rf"^{tmp_path} is not there, or another folder than here"):
        require_alike(releases(), token, [tmp_path])
