from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import vgg16

from pipeline.dataset.images import decode
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import (
    DeviceError,
    IdentityMismatch,
    ManifestError,
    SourceError,
    SourceMissing,
    StoreError,
    StoreLocked,
    WeightsError,
)
from pipeline.features import shard_writer
from pipeline.features.backbone import Backbone, open_backbone
from pipeline.features.extract import ExtractReport, ImagesFailed, extract, is_complete
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.index import current_index, row_keys
from pipeline.features.store import FeatureStore, locked
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.params import read_params
from pipeline.workspace import Workspace
from tests import hostile
from tests.features.conftest import (
    PARAMS,
    disk_full_at,
    listing,
    manifest_of,
    python_path,
    relative_errors,
    shards_of,
    stat_of,
    write_photo,
)

NewWorkspace = Callable[..., Workspace]

OTHER_PARAMS = PARAMS.replace("resize: 32", "resize: 40")


@pytest.fixture(scope="module")
def original() -> Any:
    """Torchvision's network, to be filled with the weights of a test."""
    return vgg16(weights=None, init_weights=False).eval()


@pytest.fixture(scope="module")
def random_backbone() -> Backbone:
    return open_backbone(resolve_weights("random", Path()), "float32", device="cpu", backend="torch")


@pytest.fixture
def quick(random_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Set the network up once for all tests, and count the images that are pushed through."""
    pushed: list[int] = []

    def counting(pixels: Any) -> Any:
        pushed.append(len(pixels))
        return random_backbone(pixels)

    counting.batch_size, counting.made_with = 4, random_backbone.made_with  # type: ignore[attr-defined]
    monkeypatch.setattr("pipeline.features.extractor.open_backbone", lambda *_, **__: counting)
    return pushed


def small_shards(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(shard_writer, "SHARD_ROWS", rows)


def stored_features(workspace: Workspace) -> Any:
    """Features of the manifest, read the way that heads read them."""
    manifest = read_manifest(workspace.manifest_file)
    index = current_index(workspace, read_params(workspace.params_file), manifest)
    return FeatureStore.open(workspace.store_folder, index.identity).read(row_keys(manifest))


def failed_rows(workspace: Workspace) -> list[list[str]]:
    with workspace.failed_file.open(newline="") as file:
        return list(csv.reader(file))


# Proof against the original


@pytest.mark.parametrize(
    ("weights", "storage"), [("random", "float16"), ("random", "float32"), ("oxford", "float16")]
)
def test_extract__stored_features_equal_torchvisions(
    original: Any, new_workspace: NewWorkspace, weights: str, storage: str, request: pytest.FixtureRequest
) -> None:
    if weights == "oxford":
        request.getfixturevalue("oxford_in_cache")
    geometry = f"precision: float32, resize: 40, image_size: 32, storage: {storage}"
    workspace = new_workspace(
        count=6, params=f"dataset: {{source: photos}}\nextract: {{weights: {weights}, {geometry}}}\n"
    )
    extract(workspace)
    stored = stored_features(workspace)
    assert stored.dtype == storage
    expected = directly(original, workspace, weights)
    errors = relative_errors(stored, expected)
    assert errors.max() < (1e-4 if storage == "float32" else 1e-3)
    assert len(np.unique(expected.round(3), axis=0)) == 6


def directly(network: Any, workspace: Workspace, name: str) -> Any:
    """Features by torchvision's own network, one image at a time, normalised in float64."""
    params = read_params(workspace.params_file)
    weights = resolve_weights(name, workspace.root)
    network.features.load_state_dict(
        {key: torch.from_numpy(value) for key, value in load_weights(weights).items()}
    )
    mean, std = {
        "random": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "oxford": ([123.68 / 255, 116.779 / 255, 103.939 / 255], [1 / 255] * 3),
    }[name]
    rows = []
    for row in read_manifest(workspace.manifest_file).usable:
        image = decode((workspace.root / params.dataset.source / row.path).read_bytes())
        square = to_pixels(image, params.extract.resize, params.extract.image_size)
        pixels = np.asarray(square).transpose(2, 0, 1)
        inputs = (pixels / 255.0 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        with torch.inference_mode():
            batch = torch.from_numpy(inputs.astype(np.float32))[None]
            rows.append(torch.flatten(network.avgpool(network.features(batch)), 1).numpy()[0])
    return np.stack(rows)


def test_extract__photographs_with_the_default_geometry(
    original: Any, new_workspace: NewWorkspace, shared: Path, oxford_in_cache: Path
) -> None:
    workspace = new_workspace(
        count=0, params="dataset: {source: photos}\nextract: {weights: oxford, precision: float32}\n"
    )
    for label in ("cat", "dog"):
        (workspace.root / "photos" / label).mkdir(parents=True)
        for photo in sorted((shared / "cats-dogs" / label).iterdir())[:1]:
            shutil.copy(photo, workspace.root / "photos" / label / f"{photo.stem}.png")  # names do not matter
    manifest_of(workspace)
    extract(workspace)
    stored = stored_features(workspace)
    assert relative_errors(stored, directly(original, workspace, "oxford")).max() < 1e-3
    assert 0.6 < float((stored == 0).mean()) < 0.95  # as VGG16's are
    assert 50 < float(stored.max()) < 2000


# The same, whatever the batch, the workers and the day


@pytest.mark.usefixtures("quick")
def test_extract__batches_and_workers_change_no_byte(
    new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 8)
    outcomes = []
    for batch_size, processes in ((16, 2), (1, 1), (2, 4), (3, 1), (7, 8)):
        workspace = new_workspace(f"b{batch_size}-w{processes}", count=18)
        extract(workspace, Execution(batch_size=batch_size, workers=processes))
        outcomes.append((shards_of(workspace), workspace.index_file.read_bytes()))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(outcomes[0][0]) == 3


# Never twice


def test_extract__only_what_is_missing(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(workspace) == ExtractReport(images=10, computed=10, reused=0, copies=0)
    assert sum(quick) == 10
    assert "extract: 10 images in " in capsys.readouterr().err
    before = stat_of([workspace.index_file, *sorted(workspace.store_folder.glob("[!.]*"))])
    features = stored_features(workspace)

    quick.clear()
    assert extract(workspace) == ExtractReport(images=10, computed=0, reused=10, copies=0)
    assert not quick
    assert stat_of([workspace.index_file, *sorted(workspace.store_folder.glob("[!.]*"))]) == before
    assert capsys.readouterr().err == ""

    for number in range(10, 13):
        write_photo(workspace.root / "photos" / "dog" / f"new-{number}.png", number)
    manifest_of(workspace)
    assert extract(workspace) == ExtractReport(images=13, computed=3, reused=10, copies=0)
    assert sum(quick) == 3
    assert len(stored_features(workspace)) == 13
    np.testing.assert_array_equal(stored_features(workspace)[:5], features[:5])


def test_extract__renamed_relabelled_moved_and_copied_images_cost_nothing(
    workspace: Workspace, quick: list[int]
) -> None:
    extract(workspace)
    quick.clear()
    photos = workspace.root / "photos"
    (photos / "cat" / "000.png").rename(photos / "cat" / "zzz.png")
    (photos / "bird").mkdir()
    (photos / "cat" / "002.png").rename(photos / "bird" / "002.png")
    shutil.copy(photos / "dog" / "001.png", photos / "dog" / "copy.png")
    manifest_of(workspace, labels={"cat/004.png": "dog"})
    assert extract(workspace) == ExtractReport(images=11, computed=0, reused=10, copies=1)
    assert not quick
    stored, rows = stored_features(workspace), read_manifest(workspace.manifest_file).usable
    by_path = {row.path: stored[number] for number, row in enumerate(rows)}
    np.testing.assert_array_equal(by_path["dog/copy.png"], by_path["dog/001.png"])


def test_extract__copies_are_computed_once(workspace: Workspace, quick: list[int]) -> None:
    photos = workspace.root / "photos"
    for name in ("a", "b"):
        shutil.copy(photos / "dog" / "001.png", photos / "dog" / f"{name}.png")
    manifest_of(workspace)
    assert extract(workspace) == ExtractReport(images=12, computed=10, reused=0, copies=2)
    assert sum(quick) == 10


def test_extract__quarantined_images_are_left_alone(workspace: Workspace, quick: list[int]) -> None:
    text = workspace.manifest_file.read_text().splitlines()
    text[1] = text[1].replace(",train,", ",,").replace(",ok,", ",quarantined,corrupt")
    workspace.manifest_file.write_text("\n".join(text) + "\n")
    assert extract(workspace).images == 9
    assert sum(quick) == 9


def test_extract__nothing_new_imports_no_torch(workspace: Workspace, quick: list[int]) -> None:
    extract(workspace)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.features.extract import extract; from pipeline.workspace import Workspace\n"
        "heavy = {'torch', 'torchvision'}\n"
        f"print(extract(Workspace(Path({str(workspace.root)!r}))).computed, heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout == "0 set()\n"


# Never wrong


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("precision: half", "precision float32 against half"),
        ("resize: 40", "resize 32 against 40"),
        ("image_size: 33, resize: 33", "resize 32 against 33; image_size 32 against 33"),
        ("storage: float32", "storage float16 against float32"),
        ("weights: oxford", "weights_sha256 "),
    ],
)
def test_extract__another_identity_is_refused(workspace: Workspace, change: str, shown: str) -> None:
    extract(workspace)
    before = shards_of(workspace), workspace.index_file.read_bytes()
    parts = {"weights": "random", "precision": "float32", "resize": "32", "image_size": "32"}
    parts |= dict(part.split(": ") for part in change.split(", "))
    extract_params = ", ".join(f"{key}: {value}" for key, value in parts.items())
    workspace.params_file.write_text(f"dataset: {{source: photos}}\nextract: {{{extract_params}}}\n")
    with pytest.raises(IdentityMismatch) as caught:
        extract(workspace)
    assert f"the features in {workspace.store_folder} and what params.yaml asks for differ: " in str(
        caught.value
    )
    assert shown in str(caught.value)
    assert "`pipeline extract --fresh`, which replaces these features" in str(caught.value)
    assert (shards_of(workspace), workspace.index_file.read_bytes()) == before
    assert not is_complete(workspace)


def test_extract__fresh_replaces_features_of_another_extractor(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    extract(workspace)
    workspace.params_file.write_text(OTHER_PARAMS)
    assert extract(workspace, fresh=True).computed == 10
    assert "removed 1 shard\n" in capsys.readouterr().err
    assert len(shards_of(workspace)) == 1
    assert len(stored_features(workspace)) == 10


def test_extract__fresh_keeps_features_of_this_extractor(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(workspace, fresh=True).computed == 10  # nothing there yet, and nothing to say of it
    assert "kept" not in capsys.readouterr().err
    before = stat_of(sorted(workspace.store_folder.glob("*.h5")))
    write_photo(workspace.root / "photos" / "cat" / "new.png", 50)
    manifest_of(workspace)
    quick.clear()
    assert extract(workspace, fresh=True) == ExtractReport(images=11, computed=1, reused=10, copies=0)
    said = capsys.readouterr().err
    assert said.startswith(f"the features in {workspace.store_folder} are of this extractor already: kept\n")
    assert "removed" not in said
    assert sum(quick) == 1
    assert set(before) <= set(stat_of(sorted(workspace.store_folder.glob("*.h5"))))


@pytest.mark.usefixtures("quick")
def test_extract__fresh_again_resumes_after_an_interruption(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(workspace)
    small_shards(monkeypatch, 4)
    workspace.params_file.write_text(OTHER_PARAMS)
    calls = []

    def interrupted(extractor: Extractor, pixels: Any, forward: Any = Extractor.forward) -> Any:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(extractor, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(workspace, Execution(batch_size=2), fresh=True)
    assert extract(workspace, fresh=True) == ExtractReport(images=10, computed=4, reused=6, copies=0)


@pytest.mark.usefixtures("quick")
def test_extract__fresh_removes_a_store_that_says_nothing_that_is_understood(workspace: Workspace) -> None:
    extract(workspace)
    (workspace.store_folder / "store.json").write_text("{")
    assert extract(workspace, fresh=True).computed == 10
    assert is_complete(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__fresh_that_cannot_run_costs_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(workspace)
    params, before = workspace.params_file.read_text(), shards_of(workspace)
    workspace.params_file.write_text(OTHER_PARAMS)

    def impossible(*_: object, **__: object) -> None:
        raise WeightsError("no network")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.features.extractor.open_backbone", impossible)
        with pytest.raises(WeightsError):
            extract(workspace, fresh=True)
    (workspace.root / "photos").rename(workspace.root / "elsewhere")
    with pytest.raises(SourceMissing):
        extract(workspace, fresh=True)
    assert shards_of(workspace) == before
    workspace.params_file.write_text(params)
    assert is_complete(workspace)


# Never from a damaged shard


def _cut(path: Path) -> None:
    os.truncate(path, 1000)


def _garble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(9999))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("harm", [_cut, _garble, _empty])
@pytest.mark.parametrize("verify", [False, True])
def test_extract__what_is_no_shard_is_set_aside_and_its_rows_are_computed_again(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    verify: bool,
) -> None:
    small_shards(monkeypatch, 4)
    extract(workspace)
    whole = shards_of(workspace)
    path = next(path for path in FeatureStore.open(workspace.store_folder).shards() if rows_in(path) == 4)
    harm(path)
    harmed = path.read_bytes()
    capsys.readouterr()
    assert extract(workspace, verify=verify) == ExtractReport(images=10, computed=4, reused=6, copies=0)
    aside = path.with_name(f"{path.name}.damaged")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: {aside}: a damaged shard, set aside; 4 images have no features now: to be computed"
    ]
    assert shards_of(workspace) == whole
    assert aside.read_bytes() == harmed
    assert extract(workspace).computed == 0
    stored_features(workspace)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_extract__a_link_to_nothing_gives_way(workspace: Workspace) -> None:
    extract(workspace)
    (path,) = workspace.store_folder.glob("*.h5")
    path.unlink()
    path.symlink_to(workspace.root / "nowhere")
    assert extract(workspace).computed == 10
    assert not path.is_symlink()
    stored_features(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__verify_says_what_is_really_computed_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_shards(monkeypatch, 5)
    extract(workspace)
    store = FeatureStore.open(workspace.store_folder)
    keys = row_keys(read_manifest(workspace.manifest_file))
    features = store.read(keys[:6])
    copy = store.add(keys[:6], features, {"device": "elsewhere"})  # all rows of one shard, one of the other
    for path in {*store.shards()} - {copy}:
        flip(path)
    capsys.readouterr()
    assert extract(workspace).computed == 0  # what needs hashing is seen only then
    assert capsys.readouterr().err == ""
    assert extract(workspace, verify=True).computed == 4
    said = capsys.readouterr().err
    assert "2 damaged shards, set aside (first: " in said
    assert "); 4 images have no features now: to be computed\n" in said

    flip(copy)
    store.add(keys[:6], features, {"device": "a third"})
    assert extract(workspace, verify=True).computed == 0
    assert "a damaged shard, set aside; every image still has its features\n" in capsys.readouterr().err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rows_in(path: Path) -> int:
    return len(FeatureStore.open(path.parent).format.contents(path).keys)


def test_extract__features_that_float16_cannot_hold(
    workspace: Workspace, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Extractor, "forward", lambda self, pixels: np.full((len(pixels), 25_088), np.inf, "f2")
    )
    with pytest.raises(StoreError, match=r"do not fit float16: set extract.storage to float32"):
        extract(workspace)
    assert not shards_of(workspace)
    assert not workspace.index_file.exists()


# Images that prepare saw and that are not there, or not the same, any more


@pytest.mark.usefixtures("quick")
def test_extract__changed_and_deleted_images_are_listed_and_the_rest_is_stored(workspace: Workspace) -> None:
    photos = workspace.root / "photos"
    kept = (photos / "cat" / "002.png").read_bytes()
    (photos / "cat" / "000.png").unlink()
    write_photo(photos / "cat" / "002.png", 999)
    (photos / "dog" / "003.png").unlink()
    os.mkfifo(photos / "dog" / "003.png")  # must not be waited for
    (photos / "dog" / "005.png").unlink()
    (photos / "dog" / "005.png").symlink_to("/etc/passwd")
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert isinstance(caught.value, ImagesFailed)
    assert caught.value.report == ExtractReport(images=10, computed=6, reused=0, copies=0, failed=4)
    assert str(caught.value) == (
        "4 of 10 images could not be read again, the others are stored (first: cat/000.png: vanished; "
        f"all: {workspace.failed_file}). "
        "Run `pipeline prepare --rehash`, which looks at every image anew, then `pipeline extract`."
    )
    header, *rows = failed_rows(workspace)
    assert header == ["path", "reason"]
    assert "leads out of" in dict(rows)["dog/005.png"]
    assert rows[:3] == [
        ["cat/000.png", "vanished"],
        ["cat/002.png", "changed_since_prepare"],
        ["dog/003.png", "not_regular"],
    ]
    assert not workspace.index_file.exists()
    assert not is_complete(workspace)

    (photos / "cat" / "002.png").write_bytes(kept)
    for name in ("cat/000.png", "dog/003.png", "dog/005.png"):
        (photos / name).unlink(missing_ok=True)
        write_photo(photos / name, int(Path(name).stem))
    assert extract(workspace) == ExtractReport(images=10, computed=4, reused=6, copies=0)
    assert not workspace.failed_file.exists()
    assert is_complete(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__failure_leaves_the_old_index(workspace: Workspace) -> None:
    extract(workspace)
    before = workspace.index_file.read_bytes()
    write_photo(workspace.root / "photos" / "cat" / "new.png", 50)
    manifest_of(workspace)
    (workspace.root / "photos" / "cat" / "new.png").unlink()
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert str(caught.value) == (
        f"1 of 1 image could not be read again (cat/new.png: vanished; listed in {workspace.failed_file}). "
        "Run `pipeline prepare --rehash`, which looks at every image anew, then `pipeline extract`."
    )
    assert workspace.index_file.read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_extract__image_that_no_longer_decodes(workspace: Workspace) -> None:
    rows = list(read_manifest(workspace.manifest_file).rows)
    file = workspace.root / "photos" / rows[0].path
    file.write_bytes(file.read_bytes()[:60])
    manifest_of(workspace)  # its hash is that of the damaged bytes
    with pytest.raises(SourceError, match="1 of 10 images"):
        extract(workspace)
    ((path, reason),) = failed_rows(workspace)[1:]
    assert path == rows[0].path
    assert reason in {"truncated", "corrupt"}


@pytest.mark.usefixtures("quick")
def test_extract__whole_shard_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 5)
    for file in (workspace.root / "photos" / "cat").iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="5 of 10 images"):
        extract(workspace)
    assert len(shards_of(workspace)) == 1


def test_extract__hostile_name_stays_one_line(workspace: Workspace, quick: list[int]) -> None:
    file = workspace.root / "photos" / "cat" / "a\n\x1b[2J.png"
    write_photo(file, 60)
    manifest_of(workspace)
    file.unlink()
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_extract__source_has_gone(workspace: Workspace, quick: list[int]) -> None:
    extract(workspace)
    (workspace.root / "photos").rename(workspace.root / "elsewhere")
    assert extract(workspace).computed == 0  # nothing is needed from it
    next(workspace.store_folder.glob("*.h5")).unlink()
    with pytest.raises(
        SourceMissing, match=r"photos: the folder of the images is not there, .*pipeline prepare"
    ):
        extract(workspace)
    assert not workspace.failed_file.exists()


def test_extract__no_manifest(workspace: Workspace) -> None:
    workspace.manifest_file.unlink()
    with pytest.raises(ManifestError, match="Run `pipeline prepare` first"):
        extract(workspace)
    assert not workspace.store_folder.exists()


def test_is_complete(workspace: Workspace, quick: list[int]) -> None:
    assert not is_complete(workspace)
    extract(workspace)
    assert is_complete(workspace)
    write_manifest(workspace.manifest_file, read_manifest(workspace.manifest_file).rows[1:])
    assert not is_complete(workspace)  # the index is of other images
    manifest_of(workspace)
    next(workspace.store_folder.glob("*.h5")).unlink()
    assert not is_complete(workspace)


# Never lost


def test_extract__another_process_is_writing(workspace: Workspace, quick: list[int]) -> None:
    with locked(workspace.store_folder), pytest.raises(StoreLocked, match=f"process {os.getpid()} on "):
        extract(workspace)
    assert not quick
    assert extract(workspace).computed == 10


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError])
def test_extract__interrupted_keeps_what_was_computed_and_leaves_nothing_running(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    small_shards(monkeypatch, 4)
    calls = []

    def interrupted(extractor: Extractor, pixels: Any, forward: Any = Extractor.forward) -> Any:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise error
        return forward(extractor, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "forward", interrupted)
        with pytest.raises(error):
            extract(workspace, Execution(batch_size=2))
    assert len(shards_of(workspace)) == 2  # of four rows and of two
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("ask", "write"))]
    assert extract(workspace) == ExtractReport(images=10, computed=4, reused=6, copies=0)


@pytest.mark.usefixtures("quick")
def test_extract__image_that_crashes_or_hangs_its_decoder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = workspace.root / "photos"
    (photos / "cat" / "crash.png").write_bytes(b"crash")
    (photos / "dog" / "hang.png").write_bytes(b"hang")
    manifest_of(workspace)
    hostile.run_first(monkeypatch, tmp_path, hostile.DECODER)
    with pytest.raises(SourceError, match="2 of 12 images could not be read again, the others are stored"):
        extract(workspace, Execution(timeout=1))
    expected = [["path", "reason"], ["cat/crash.png", "decoder_crashed"], ["dog/hang.png", "timeout"]]
    assert failed_rows(workspace) == expected
    with pytest.raises(SourceError) as caught:  # tried again
        extract(workspace, Execution(timeout=1))
    assert str(caught.value) == (
        "2 of 2 images could not be read again (first: cat/crash.png: decoder_crashed; "
        f"all: {workspace.failed_file}). Run `pipeline prepare --rehash`, which looks at every image anew, "
        "then `pipeline extract --timeout 4`, for 1 took more than 1 s."
    )
    assert not workspace.index_file.exists()


@pytest.mark.usefixtures("quick")
def test_extract__images_that_only_take_too_long(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workspace.root / "photos" / "cat" / "hang.png"
    file.write_bytes(b"hang")
    manifest_of(workspace)
    hostile.run_first(monkeypatch, tmp_path, hostile.DECODER)
    with pytest.raises(SourceError) as caught:
        extract(workspace, Execution(timeout=1))
    assert str(caught.value) == (
        "1 of 11 images could not be read again, the others are stored (cat/hang.png: timeout; "
        f"listed in {workspace.failed_file}). If it needs more than the 1 s of --timeout, "
        "run `pipeline extract --timeout 4`."
    )


@pytest.mark.usefixtures("quick")
def test_extract__simulated_full_disk(new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 4)
    workspace, reference = new_workspace("full"), new_workspace("reference")
    extract(reference)
    with (
        disk_full_at(3),
        pytest.raises(OSError, match="No space left on device") as caught,
    ):  # store.json, a shard
        extract(workspace)
    assert str(caught.value.filename).startswith(str(workspace.store_folder))
    assert len(listing(workspace.store_folder)) == 2  # store.json, and the shard that was finished
    assert not workspace.index_file.exists()
    assert extract(workspace).reused == 4
    assert shards_of(workspace) == shards_of(reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 480 KB; the test is skipped where mounting one is not permitted."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=480k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("quick")
def test_extract__really_full_disk(
    new_workspace: NewWorkspace, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 4)  # 204 KB each: two fit
    workspace, reference = new_workspace("full"), new_workspace("reference")
    extract(reference)
    (workspace.root / "cache").symlink_to(small_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        extract(workspace)
    assert str(caught.value.filename).startswith(str(workspace.store_folder))
    shards = shards_of(workspace)
    assert len(shards) == 2
    assert shards.items() <= shards_of(reference).items()
    assert listing(workspace.store_folder) == sorted([*shards, "store.json"])

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert extract(workspace) == ExtractReport(images=10, computed=2, reused=8, copies=0)
    assert shards_of(workspace) == shards_of(reference)
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()


EXTRACT_SLOWLY = """
import sys, time
from pathlib import Path
from pipeline.features import extractor, shard_writer
from pipeline.features.extract import extract
from pipeline.workspace import Workspace

shard_writer.SHARD_ROWS = 2
forward = extractor.Extractor.forward
def slowly(self, pixels):
    time.sleep(0.03)  # so that a kill falls between shards as well as into them
    return forward(self, pixels)
extractor.Extractor.forward = slowly
extract(Workspace(Path(sys.argv[1])), extractor.Execution(backend="torch", batch_size=2))
"""


def kill_and_resume(workspace: Workspace, reference: Workspace, kills: int, seed: int) -> None:
    """Kill real runs at random moments after their first shard, then let one finish."""
    moments = random.Random(seed)
    command = [sys.executable, "-c", textwrap.dedent(EXTRACT_SLOWLY), str(workspace.root)]
    expected = shards_of(reference)
    for _ in range(kills):
        before = len(shards_of(workspace)) if workspace.store_folder.exists() else 0
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=python_path()
        )
        while process.poll() is None and len(list(workspace.store_folder.glob("*.h5"))) == before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # whatever is visible is whole, and what an uninterrupted run makes
        assert shards_of(workspace).items() <= expected.items()
        assert len(shards_of(workspace)) > before
    finished = len(shards_of(workspace))
    assert extract(workspace, Execution(batch_size=2)).computed == 2 * (len(expected) - finished)
    assert shards_of(workspace) == expected
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()
    assert listing(workspace.store_folder) == sorted([*expected, "store.json"])


def test_extract__killed_and_resumed(
    new_workspace: NewWorkspace, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 2)
    workspace, reference = new_workspace("killed", count=24), new_workspace("reference", count=24)
    extract(reference, Execution(batch_size=2))
    kill_and_resume(workspace, reference, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_extract__killed_and_resumed__many(
    new_workspace: NewWorkspace, quick: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    small_shards(monkeypatch, 2)
    workspace, reference = new_workspace("killed", count=200), new_workspace("reference", count=200)
    extract(reference, Execution(batch_size=2))
    kill_and_resume(workspace, reference, kills=8, seed=seed)


def test_extract__killed_in_the_middle_of_a_write(
    workspace: Workspace, new_workspace: NewWorkspace, quick: list[int]
) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipeline.features.store import FeatureStore\n"
        "from pipeline import files\n"
        "files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(Path(sys.argv[1]) / ('0' * 64 + '.h5'), bytes(100000))\n"
    )
    extract(workspace)
    before = shards_of(workspace)
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.store_folder)], env=python_path(), check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(workspace.store_folder.glob(".*.tmp"))) == 1
    assert shards_of(workspace) == before
    assert extract(workspace).computed == 0
    assert not list(workspace.store_folder.glob(".*.tmp"))
