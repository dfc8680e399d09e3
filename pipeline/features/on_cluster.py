"""Shards made by the workers of a Dask cluster, each by the same function as on one machine.

Owns what a worker is told, and what it has to agree on with whoever tells it before it begins. Workers write
into the shared folder of the store; its lock, and the index, stay with the process that the user started.
Through the scheduler go paths, digests and names of shards, and never a feature.
"""

from __future__ import annotations

import functools
import json
import threading
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.agreement import releases, require_same
from pipeline.cluster import Cluster, Lost
from pipeline.console import counted, note, printable, warn
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import ClusterError, IdentityMismatch
from pipeline.features.extraction import Extraction, require_source
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import Identity, identity_of
from pipeline.features.lacking import Failure, Lacking
from pipeline.features.shards import NOT_COMPUTED, Shard, ShardMaker
from pipeline.features.store import FeatureStore
from pipeline.features.weights import Weights, resolve_weights
from pipeline.params import ExtractParams

_SETTING_UP = threading.Lock()


@dataclass(frozen=True)
class Job:
    """All that a worker has to know, the images left out.

    Attributes
    ----------
    params : ExtractParams
        Which extractor.
    identity : Identity
        What it has to amount to on the worker, too.
    releases : tuple of (str, str)
        What has to be installed there.
    workspace : Path
        Where relative paths of weights start.
    quantised : Path or None
        The network of precision ``int8``.
    images, store : Path
        Folders, the same for all.
    execution : Execution
        What changes speed and memory only.
    cores : int or None
        Processors that are a worker's; by default as many as its Dask worker has threads.
    """

    params: ExtractParams
    identity: Identity
    releases: tuple[tuple[str, str], ...]
    workspace: Path
    quantised: Path | None
    images: Path
    store: Path
    execution: Execution
    cores: int | None


@dataclass
class OnCluster:
    """Shards made by a cluster; see `Engine`.

    Attributes
    ----------
    cluster : Cluster
        Who does it.
    workspace : Path
        Where relative paths of weights start.
    execution : Execution
        What changes speed and memory only, of each worker.
    seconds : dict of str to float
        Empty: the workers know where their time went.
    """

    cluster: Cluster
    workspace: Path
    execution: Execution
    seconds: dict[str, float] = field(default_factory=dict)

    def ready(self, extraction: Extraction, store: Path) -> None:
        """See that every worker would do what this process would, in the same folders.

        Raises
        ------
        ClusterError
            A worker has another release of something, other weights, or other folders.
        """
        require_source(extraction.root)
        self.cluster.require_alike(store, extraction.root)
        self.cluster.on_each(_agreed, self._job(extraction, store))

    def made(
        self,
        extraction: Extraction,
        store: FeatureStore,
        parts: Sequence[Sequence[Lacking]],
        advance: Callable[[int], object],
    ) -> Generator[Shard, None, None]:
        """Make shards, in the order in which they are finished; of one that is given up all images failed."""
        self.ready(extraction, store.folder)
        job, count, given_up = self._job(extraction, store.folder), 0, 0
        for packed, made in self.cluster.outcomes(make_shard, job, map(pack, parts)):
            shard = made
            if isinstance(made, Lost):
                given_up += 1
                part = unpack(packed)
                warn(f"a shard of {counted(len(part), 'image')} was given up: {printable(made.reason)}")
                reason = NOT_COMPUTED + made.reason
                shard = Shard("", 0, tuple(Failure(image.path, reason) for image, _ in part))
            elif shard.name and not (store.folder / shard.name).is_file():
                raise ClusterError(f"a worker has written {shard.name}, and {store.folder} does not have it.")
            count += 1
            advance(shard.rows)
            yield shard
        note(f"{counted(count - given_up, 'shard')} made, {given_up} given up")

    def _job(self, extraction: Extraction, store: Path) -> Job:
        return Job(
            params=extraction.params,
            identity=extraction.identity,
            releases=tuple(releases().items()),
            workspace=self.workspace.absolute(),
            quantised=extraction.quantised and extraction.quantised.absolute(),
            images=extraction.root.absolute(),
            store=store.absolute(),
            execution=self.execution,
            cores=self.cluster.cores,
        )


def pack(part: Sequence[Lacking]) -> bytes:
    """Return what a worker has to know of images; small, as schedulers keep their last thousand messages."""
    told = [(image.path, image.sha256, views) for image, views in part]
    return zlib.compress(json.dumps(told).encode(), level=1)


def unpack(packed: bytes) -> list[Lacking]:
    """Return the images of `pack`, by path and digest."""
    return [
        Lacking(ImageRow(path, "", "", "", sha256, 0, 0, 0, "ok", ""), tuple(views))
        for path, sha256, views in json.loads(zlib.decompress(packed))
    ]


def make_shard(job: Job, packed: bytes) -> Shard:
    """Make one shard; this runs on a worker, which sets the network up with its first one."""
    FeatureStore.open(job.store, job.identity)  # it may have been replaced since this worker's last shard
    with _SETTING_UP:
        maker = _maker(job)
    [shard] = maker.make([unpack(packed)])
    return shard


@functools.lru_cache(maxsize=1)
def _maker(job: Job) -> ShardMaker:
    weights = _agreed(job)  # asked again, for this worker may have come late
    from distributed import get_worker

    cores = job.cores or get_worker().state.nthreads
    execution = replace(job.execution, threads=cores, workers=job.execution.workers or cores)
    extractor = Extractor(job.params, weights, execution, job.quantised)
    return ShardMaker(extractor, FeatureStore.open(job.store, job.identity), job.images)


def _agreed(job: Job) -> Weights:
    """Return the weights that this worker finds, if it would compute with them what is asked for."""
    require_same(dict(job.releases))
    weights = resolve_weights(job.params.weights, job.workspace, job.params.backbone)
    try:
        identity_of(job.params, weights, job.quantised).require(
            job.identity, "its features", "those asked for", "Give it the same weights."
        )
    except IdentityMismatch as error:
        raise ClusterError(str(error)) from None
    return weights
