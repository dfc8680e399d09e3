"""Shards made by a real Dask cluster: a scheduler and workers in processes of their own, on loopback."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.connection import ClusterOptions, connected
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ClusterError
from pipeline.features import shard_writer
from pipeline.features.extract import ExtractReport, ImagesFailed, extract
from pipeline.features.extractor import Execution
from pipeline.features.on_cluster import OnCluster
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace
from tests.clusters import ROOT, Scheduler, scheduler
from tests.features.conftest import PARAMS, listing, manifest_of, python_path, shards_of, write_photo

IMAGES, ROWS = 24, 4
EXECUTION = Execution(batch_size=2)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler without workers; each test brings its own, and takes them away."""
    with scheduler(tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture
def start(dask: Scheduler) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker for this test."""
    started = []

    def worker(*options: str, **about: object) -> subprocess.Popen[bytes]:
        started.append(dask.worker(*options, **about))  # type: ignore[arg-type]
        return started[-1]

    yield worker
    for process in started:
        dask.stop(process)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What a run on this machine makes of the images."""
    root = tmp_path_factory.mktemp("reference")
    for number in range(IMAGES):
        write_photo(root / "photos" / ("cat", "dog")[number % 2] / f"{number:03d}.png", number)
    (root / "params.yaml").write_text(PARAMS)
    workspace = Workspace(root)
    manifest_of(workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "SHARD_ROWS", ROWS)
        extract(workspace, EXECUTION)
    assert len(shards_of(workspace)) == IMAGES // ROWS
    return workspace


@pytest.fixture
def workspace(reference: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same images, and no features."""
    monkeypatch.setattr(shard_writer, "SHARD_ROWS", ROWS)
    shutil.copytree(reference.root, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    return Workspace(tmp_path / "copy")


def extract_on(
    dask: Scheduler, workspace: Workspace, workers: int, resource: str | None = None
) -> ExtractReport:
    """Extract by so many workers, all of whom have come before it begins."""
    with connected(ClusterOptions(dask.address, resource=resource)) as cluster:
        cluster.client.wait_for_workers(workers, timeout=60)
        engine = OnCluster(cluster, workspace.root, EXECUTION)
        return extract(workspace, EXECUTION, engine=engine)


def assert_same(workspace: Workspace, reference: Workspace) -> None:
    """Compare all that a run leaves, to the byte."""
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()
    assert shards_of(workspace) == shards_of(reference)
    assert [name for name in listing(workspace.store_folder) if not name.endswith(".tmp")] == listing(
        reference.store_folder
    )


Start = Callable[..., "subprocess.Popen[bytes]"]


def test_whoever_makes_the_shards__all_is_as_on_one_machine(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace, tmp_path: Path
) -> None:
    start()
    start()
    assert extract_on(dask, workspace, 2).computed == IMAGES
    assert_same(workspace, reference)
    assert extract_on(dask, workspace, 2) == ExtractReport(IMAGES, 0, IMAGES, 0)

    shutil.rmtree(workspace.store_folder)
    start()
    start()
    assert extract_on(dask, workspace, 4).computed == IMAGES
    assert_same(workspace, reference)


def test_a_worker_killed_in_the_middle_of_a_shard(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace
) -> None:
    kill_and_finish(dask, start, workspace, kills=1, seed=0)
    assert_same(workspace, reference)


@pytest.mark.slow
def test_workers_killed_at_random_moments(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace
) -> None:
    kill_and_finish(dask, start, workspace, kills=10, seed=1)
    assert_same(workspace, reference)


def kill_and_finish(dask: Scheduler, start: Start, workspace: Workspace, kills: int, seed: int) -> None:
    """Extract while one of two slow workers is killed again and again, and replaced each time."""
    from concurrent.futures import ThreadPoolExecutor

    moments = random.Random(seed)
    victim, _ = start(fault="slow"), start(fault="slow")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(extract_on, dask, workspace, 2)
        for _ in range(kills):
            made = len(list(workspace.store_folder.glob("*.h5")))
            while len(list(workspace.store_folder.glob("*.h5"))) == made and not running.done():
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            victim = start(fault="slow")
        assert running.result(timeout=120).computed == IMAGES


def test_a_worker_that_hangs_is_given_up(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    start(fault="slow")
    hanging = start(fault="slow")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(extract_on, dask, workspace, 2)
        while not list(workspace.store_folder.glob("*.h5")):
            time.sleep(0.01)
        hanging.send_signal(signal.SIGSTOP)
        assert running.result(timeout=120).computed == IMAGES
    assert_same(workspace, reference)


def test_a_scheduler_that_goes_is_told(workspace: Workspace, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with scheduler(tmp_path) as dask, ThreadPoolExecutor(1) as pool:
        dask.worker(fault="slow")
        running = pool.submit(extract_on, dask, workspace, 1)
        while not list(workspace.store_folder.glob("*.h5")):
            time.sleep(0.01)
        dask.stop(dask.process)
        with pytest.raises(ClusterError, match=r"the scheduler has gone, .* Run the same command again"):
            running.result(timeout=120)
    assert not workspace.index_file.exists()


CLIENT = """
import sys
from pathlib import Path
from pipeline.connection import ClusterOptions, connected
from pipeline.features import shard_writer
from pipeline.features.extract import extract
from pipeline.features.extractor import Execution
from pipeline.features.on_cluster import OnCluster
from pipeline.workspace import Workspace

shard_writer.SHARD_ROWS = 4
workspace, execution = Workspace(Path(sys.argv[1])), Execution(batch_size=2)
with connected(ClusterOptions(sys.argv[2])) as cluster:
    extract(workspace, execution, engine=OnCluster(cluster, workspace.root, execution))
"""


def test_the_client_killed__its_run_goes_on_from_there(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace
) -> None:
    start(fault="slow")
    start(fault="slow")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(workspace.root), dask.address], env=python_path()
    )
    while len(list(workspace.store_folder.glob("*.h5"))) < 2:
        assert client.poll() is None
        time.sleep(0.01)
    client.kill()
    client.wait()
    assert not workspace.index_file.exists()
    report = extract_on(dask, workspace, 2)
    assert report.reused >= 2 * ROWS
    assert report.computed + report.reused == IMAGES
    assert workspace.index_file.read_bytes() == reference.index_file.read_bytes()
    rows = FeatureStore.open(workspace.store_folder).keys()
    assert rows == FeatureStore.open(reference.store_folder).keys()


def test_a_full_disk_on_one_worker(
    dask: Scheduler,
    start: Start,
    workspace: Workspace,
    reference: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start(fault="full")
    start()
    assert extract_on(dask, workspace, 2).computed == IMAGES
    assert_same(workspace, reference)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert all("No space left on device" in line for line in warnings)
    assert all(line.endswith(": tried again elsewhere") for line in warnings)


def test_a_shard_that_fails_three_times_is_reported_and_the_rest_is_stored(
    dask: Scheduler,
    start: Start,
    workspace: Workspace,
    reference: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard = read_manifest(workspace.manifest_file).usable[ROWS : 2 * ROWS]
    for _ in range(2):
        start(fault="poison", environment={"POISON": shard[0].path})
    with pytest.raises(ImagesFailed) as caught:
        extract_on(dask, workspace, 2)
    assert caught.value.report == ExtractReport(IMAGES, IMAGES - ROWS, 0, 0, failed=ROWS)
    assert "RuntimeError: no luck with this one, on worker tcp://127.0.0.1:" in str(caught.value)
    failed = workspace.failed_file.read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in failed] == [row.path for row in shard]
    assert capsys.readouterr().err.count("tried again elsewhere") == 2
    assert set(shards_of(workspace)) < set(shards_of(reference))
    assert not workspace.index_file.exists()


def test_another_release_of_this_package_is_refused_by_name(
    dask: Scheduler, start: Start, workspace: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "other" / "pipeline")
    module = tmp_path / "other" / "pipeline" / "__init__.py"
    text = module.read_text()
    assert '__version__ = "' in text
    module.write_text(text.replace('__version__ = "', '__version__ = "9.'))
    start(environment={"PYTHONPATH": str(tmp_path / "other")})
    with pytest.raises(
        ClusterError, match=r"worker tcp://.*: pipeline is 9\.[\d.]+ there, and [\d.]+ here; "
    ):
        extract_on(dask, workspace, 1)
    assert not shards_of(workspace)


def test_other_weights_are_refused_by_name(
    dask: Scheduler, start: Start, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save_file

    from pipeline.features.weights import _random_state

    state = _random_state()
    for home, factor in (("here", 1.0), ("there", 2.0)):
        (tmp_path / home).mkdir()
        save_file({f"features.{k}": v * factor for k, v in state.items()}, tmp_path / home / "w.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    workspace.params_file.write_text(PARAMS.replace("random", "~/w.safetensors"))
    start(environment={"HOME": str(tmp_path / "there")})
    with pytest.raises(
        ClusterError, match=r"worker tcp.*: its features and those asked for differ: weights_sha"
    ):
        extract_on(dask, workspace, 1)
    assert not shards_of(workspace)


def test_a_resource_says_who_works(
    dask: Scheduler, start: Start, workspace: Workspace, reference: Workspace
) -> None:
    start(fault="full")
    start("--resources", "GPU=1")
    assert extract_on(dask, workspace, 2, resource="GPU").computed == IMAGES
    assert_same(workspace, reference)
    with pytest.raises(ClusterError, match=r"no worker has the resource 'TPU'.*--resources TPU=1"):
        extract_on(dask, workspace, 2, resource="TPU")
