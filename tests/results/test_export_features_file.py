"""The plain HDF5 file, read as anybody would."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import MissingRows
from pipeline.features.store import FeatureStore
from pipeline.heads.load_features import load_features
from pipeline.results.export.features_file import write_features
from pipeline.workspace import Workspace
from tests.heads.conftest import CLASSES, IDENTITY


def test_features__everything_in_the_order_of_the_manifest(workspace: Workspace, tmp_path: Path) -> None:
    written = write_features(workspace, tmp_path / "new" / "all.h5")
    assert (written.rows, written.columns, written.dtype, written.classes) == (60, 25088, "float16", CLASSES)
    rows = [row for row in read_manifest(workspace.manifest_file).rows if row.status == "ok"]
    with h5py.File(tmp_path / "new" / "all.h5") as file:
        assert sorted(file) == ["classes", "features", "labels", "paths", "split"]
        assert list(file["paths"].asstr()) == [row.path for row in rows]
        assert list(file["labels"].asstr()) == [row.label for row in rows]
        assert list(file["split"].asstr()) == [row.split for row in rows]
        assert tuple(file["classes"].asstr()) == CLASSES
        assert json.loads(file.attrs["identity"]) == IDENTITY.as_dict()
        assert file["features"].dtype == np.float16
        assert (file["features"][:] == load_features(workspace.root).X).all()


def test_features__of_some_splits(workspace: Workspace, tmp_path: Path) -> None:
    write_features(workspace, tmp_path / "some.h5", ("val", "test"))
    with h5py.File(tmp_path / "some.h5") as file:
        assert len(file["features"]) == len(file["labels"]) == 24
        assert set(file["split"].asstr()) == {"val", "test"}


def test_features__the_same_bytes_again(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("first.h5", "second.h5"):
        write_features(workspace, tmp_path / name)
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()


def test_features__larger_than_memory(workspace: Workspace, tmp_path: Path) -> None:
    write_features(workspace, tmp_path / "small.h5", memory=1000)
    write_features(workspace, tmp_path / "large.h5")
    assert (tmp_path / "small.h5").read_bytes() == (tmp_path / "large.h5").read_bytes()


def test_features__missing_rows_leave_no_file(workspace: Workspace, tmp_path: Path) -> None:
    FeatureStore.open(workspace.store_folder).shards()[0].unlink()
    file = tmp_path / "all.h5"
    with pytest.raises(MissingRows, match=r"lacks the features of 30 of 60 images .* Run `pipeline extract`"):
        write_features(workspace, file)
    assert list(tmp_path.glob("*.h5")) == []


def test_features__into_a_folder_that_cannot_be_written(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    def refused(path: Path, mode: str = "r", **rest: Any) -> Any:
        if path.parent == tmp_path and mode != "r":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, mode, **rest)

    monkeypatch.setattr(Path, "open", refused)
    file = tmp_path / "all.h5"
    with pytest.raises(PermissionError) as caught:
        write_features(workspace, file)
    error = caught.value
    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "Permission denied", str(file))


def test_features__no_room_half_way(workspace: Workspace, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = tmp_path / "all.h5"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_features(workspace, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    assert list(tmp_path.glob("*all.h5*")) == []
