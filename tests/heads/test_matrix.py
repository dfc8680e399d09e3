from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import HeadError, MissingRows
from pipeline.features.identity import DIMENSION
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads import matrix as module
from pipeline.heads.derived import Derivation
from pipeline.heads.matrix import LabelledFeatures
from pipeline.workspace import Workspace
from tests.heads.conftest import (
    CLASSES,
    IDENTITY,
    PARAMS,
    features_like_vgg,
    image_rows,
    relabelled,
    write_manifest_and_index,
)

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


@pytest.mark.parametrize(("split", "n"), [("train", 36), ("val", 12), ("test", 12)])
def test_matrix__rows_in_manifest_order_with_their_own_features(
    workspace: Workspace, split: str, n: int
) -> None:
    usable = [row for row in image_rows() if row.status == "ok"]
    expected_X = features_like_vgg(np.array([CLASSES.index(row.label) for row in usable]))
    places = [place for place, row in enumerate(usable) if row.split == split]

    matrix = LabelledFeatures.open(workspace).matrix(split)  # type: ignore[arg-type]

    assert matrix.X.dtype == np.float16
    assert matrix.X.shape == (n, 25088)
    np.testing.assert_array_equal(matrix.X, expected_X[places])
    assert matrix.paths == tuple(usable[place].path for place in places)
    assert [matrix.classes[code] for code in matrix.y] == [usable[place].label for place in places]
    assert matrix.keys == tuple(RowKey(usable[place].sha256, "center") for place in places)


@pytest.mark.parametrize("pooling", ["none", "avg", "max"])
@pytest.mark.parametrize("normalize", ["none", "l2", "sqrt_l2", "standardize"])
@pytest.mark.parametrize("block", [1, 7, 512])
def test_matrix__derived_rows_are_those_of_the_stored_ones(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, pooling: Any, normalize: Any, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    features = LabelledFeatures.open(workspace)
    derivation = Derivation(pooling, normalize)
    expected = derivation.rows(features.matrix("train").X)
    found = features.matrix("train", derivation=derivation).X
    assert found.dtype == np.float32
    assert found.shape == (36, derivation.columns(DIMENSION))
    assert found.tobytes() == expected.tobytes()


def test_matrix__two_splits_together_in_manifest_order(workspace: Workspace) -> None:
    features = LabelledFeatures.open(workspace)
    both = features.matrix("val", "train")
    usable = read_manifest(workspace.manifest_file).usable
    assert both.images == tuple(row for row in usable if row.split != "test")
    alone = dict(zip(features.matrix("val").paths, features.matrix("val").X, strict=True))
    for path, row in zip(both.paths, both.X, strict=True):
        if path in alone:
            np.testing.assert_array_equal(row, alone[path])


def test_matrix__groups_join_duplicates_and_groups(workspace: Workspace, change_rows: Change) -> None:
    hashes = {row.path: row.sha256 for row in read_manifest(workspace.manifest_file).rows}

    def change(row: ImageRow) -> ImageRow:
        if row.path in ("cat/00.jpg", "cat/01.jpg"):
            row = replace(row, group="litter")
        if row.path in ("cat/01.jpg", "cat/05.jpg"):  # linked with cat/00 through cat/01
            row = replace(row, sha256=hashes["cat/05.jpg"])
        return row

    change_rows(change)
    rows = LabelledFeatures.open(workspace).matrix("train", derivation=Derivation("avg"))
    groups = dict(zip(rows.paths, rows.groups.tolist(), strict=True))
    linked = {"cat/00.jpg", "cat/01.jpg", "cat/05.jpg"}
    assert len({groups[path] for path in linked}) == 1
    assert len(set(groups.values())) == 36 - 2


@pytest.mark.parametrize("derivation", [None, Derivation("none", "l2"), Derivation("avg", "l2")])
def test_matrix__larger_than_its_budget_is_mapped(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], derivation: Derivation | None
) -> None:
    in_memory = LabelledFeatures.open(workspace).matrix("train", derivation=derivation)
    assert not isinstance(in_memory.X, np.memmap)
    assert capsys.readouterr().err == ""
    mapped = LabelledFeatures.open(workspace, memory=1000).matrix("train", derivation=derivation)
    assert isinstance(mapped.X, np.memmap)
    assert "36 rows of features take" in capsys.readouterr().err
    np.testing.assert_array_equal(mapped.X, in_memory.X)
    assert len(list(workspace.store_folder.parent.glob(".matrix.*.tmp"))) == 1
    del mapped
    assert list(workspace.store_folder.parent.glob(".matrix.*.tmp")) == []


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of 1,200 rows for training, in five shards of another order, and six for validation."""
    root = tmp_path_factory.mktemp("many")
    (root / "params.yaml").write_text(PARAMS)
    workspace = Workspace(root)
    rows = []
    for number in range(1206):
        sha256, split = f"{number:064x}", "val" if number % 201 == 0 else "train"
        rows.append(ImageRow(f"{number:04}.jpg", CLASSES[number % 3], split, "", sha256, 9, 32, 32, "ok", ""))
    store = FeatureStore.create(workspace.store_folder, IDENTITY)
    random = np.random.default_rng(0)
    for part in np.array_split(random.permutation(len(rows)), 5):
        X = random.integers(0, 800, (len(part), DIMENSION), np.uint16).astype(np.float16)
        store.add([RowKey(rows[place].sha256) for place in part], X, {})
    write_manifest_and_index(workspace, rows)
    return workspace


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.features.identity import DIMENSION
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads.derived import Derivation
from pipeline.heads.matrix import LabelledFeatures
from pipeline.workspace import Workspace

root, pooling, normalize = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
features = LabelledFeatures.open(Workspace(root))
derivation = None if pooling == "stored" else Derivation(pooling, normalize)

def peak():  # ru_maxrss is that of the parent, where it was larger
    found = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(found[0].split()[1]) * 1024

features.matrix("val", derivation=derivation)
before = peak()
X = features.matrix("train", derivation=derivation).X
print(peak() - before, X.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of a process")
@pytest.mark.parametrize("kind", [("stored", ""), ("none", "none"), ("none", "sqrt_l2"), ("avg", "l2")])
def test_matrix__peak_of_memory(many_rows: Workspace, kind: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(many_rows.root), *kind], capture_output=True, text=True, check=True
    )
    peak, size = map(int, done.stdout.split())
    # pooled rows are read through a buffer, which is all that is ever held of the full width
    buffer = module._BLOCK * 25088 * 4 if kind[0] == "avg" else 0
    assert peak <= 1.2 * size + 1.2 * buffer + 5e6


def test_matrix__split_without_images_has_no_rows(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split="train") if row.split == "test" else row)
    matrix = LabelledFeatures.open(workspace).matrix("test")
    assert matrix.X.shape == (0, 25088)
    assert matrix.y.shape == (0,)


def test_digest__follows_labels_and_not_names(workspace: Workspace, change_rows: Change) -> None:
    features = LabelledFeatures.open(workspace)
    before = features.digest("train")
    assert features.matrix("train").digest == before

    change_rows(lambda row: replace(row, path="moved/" + row.path))
    assert LabelledFeatures.open(workspace).digest("train") == before

    change_rows(lambda row: relabelled(row, "moved/cat/00.jpg", "dog"))
    assert LabelledFeatures.open(workspace).digest("train") != before


def test_open__one_training_class(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, label="cat"))
    with pytest.raises(HeadError, match=r"at least two classes, found only 'cat'.*pipeline prepare"):
        LabelledFeatures.open(workspace)


def test_open__no_training_image(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split=row.split and "val"))
    with pytest.raises(HeadError, match="found no training image"):
        LabelledFeatures.open(workspace)


def test_matrix__class_without_training_image(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, label="new\x1b[2J") if row.split == "val" else row)
    features = LabelledFeatures.open(workspace)
    assert len(features.matrix("train").y) == 36
    with pytest.raises(HeadError, match=r"val: .*no training image.*'new\\x1b\[2J' \(12\).*--resplit"):
        features.matrix("val")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "derivation",
    [None, Derivation(), Derivation("none", "l2"), Derivation("avg"), Derivation("max", "sqrt_l2")],
)
def test_matrix__feature_not_finite(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, bad: float, derivation: Derivation | None
) -> None:
    read = FeatureStore.read

    sixth = read_manifest(workspace.manifest_file).of_split("train")[5]

    def read_badly(
        store: FeatureStore, keys: Sequence[RowKey], out: npt.NDArray[np.floating[Any]] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        X = read(store, keys, out)
        X[[key.sha256 == sixth.sha256 for key in keys], 1000] = bad
        return X

    monkeypatch.setattr(FeatureStore, "read", read_badly)
    features = LabelledFeatures.open(workspace)
    with pytest.raises(
        HeadError, match=rf"{sixth.path}: its features hold numbers that are not finite \(1 of 36 images"
    ):
        features.matrix("train", derivation=derivation)


def test_matrix__missing_shard_names_the_remedy(workspace: Workspace) -> None:
    next(workspace.store_folder.glob("*.h5")).unlink()
    with pytest.raises(
        MissingRows, match=r"of 36 images \(first: (cat|dog|owl)/\d\d.jpg\)\. Run `pipeline extract`"
    ):
        LabelledFeatures.open(workspace).matrix("train")


def test_open__manifest_changed_since_extract(workspace: Workspace) -> None:
    lines = workspace.manifest_file.read_text().splitlines()
    workspace.manifest_file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(MissingRows, match="pipeline extract"):
        LabelledFeatures.open(workspace)


def test_identity__is_that_of_the_store(workspace: Workspace) -> None:
    assert LabelledFeatures.open(workspace).identity == IDENTITY
