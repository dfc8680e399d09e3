"""What many images cost besides the network: the engine's own time a shard, and stores of ten million rows.

    python benchmarks/scale.py shards --shards 10000
    python benchmarks/scale.py rows --rows 10000000

``shards`` has a Dask cluster of this machine do tasks like those of `pipeline extract`, with a sleep in the
place of decoding and the forward pass, and rows of two bytes. ``rows`` makes a store and a manifest that hold
keys only (3 GB of disk for ten million), and has another process open the one and match the other.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from machine import described

from pipeline.cluster import Cluster, Lost
from pipeline.connection import ClusterOptions, connected
from pipeline.console import progress, table
from pipeline.dataset.manifest import HEADER, ImageRow
from pipeline.features.description import write_description
from pipeline.features.identity import Identity
from pipeline.features.lacking import Lacking
from pipeline.features.on_cluster import pack, unpack
from pipeline.features.shard import ShardFormat
from pipeline.features.shards import Shard
from pipeline.features.store import SHARD_ROWS, FeatureStore, RowKey
from pipeline.views import CENTER

_IDENTITY = Identity(
    backbone="none",
    weights_sha256="0" * 64,
    layer="keys only",
    decoding="none",
    resizing="none",
    resize=1,
    image_size=1,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    precision="half",
    storage="float16",
    dimension=1,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what grows with the number of images."""


@dataclass(frozen=True)
class _Job:
    folder: Path
    seconds: float


def sleep_and_write(job: _Job, packed: bytes) -> Shard:
    """Do what `pipeline.features.on_cluster.make_shard` does, asleep; this runs on a worker."""
    store = FeatureStore.open(job.folder, _IDENTITY)
    time.sleep(job.seconds)
    keys = [RowKey(image.sha256, view) for image, views in unpack(packed) for view in views]
    return Shard(store.add(keys, np.ones((len(keys), 1), np.float16), {}).name, len(keys), ())


@main.command()
@click.option("--shards", "count", default=10_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--sleep", "seconds", default=0.1, show_default=True, help="In the place of the forward pass.")
def shards(count: int, workers: int, seconds: float) -> None:
    """Measure the engine's overhead a shard, and whether its memory stays flat."""
    click.echo(described("distributed"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with (
        tempfile.TemporaryDirectory() as folder,
        connected(ClusterOptions(workers=workers)) as cluster,
    ):
        FeatureStore.create(Path(folder), _IDENTITY)
        job, peaks, done = _Job(Path(folder), seconds), [], 0
        started, busy = time.perf_counter(), _busy(cluster)
        with progress("sleep", count, "shards") as advance:
            for _, made in cluster.outcomes(sleep_and_write, job, map(_packed, range(count))):
                assert not isinstance(made, Lost), made.reason
                done += 1
                advance(1)
                if done * 10 % count == 0:  # the scheduler of such a cluster is in this very process
                    peaks.append(_resident())
        elapsed, (client, working) = time.perf_counter() - started, _busy(cluster)
    overhead = elapsed * workers / count - seconds
    click.echo(f"{1e3 * overhead:.1f} ms a shard on top of {1e3 * seconds:.0f} ms, by {workers} workers")
    client, working = (
        1e3 * (after - before) / count for before, after in zip(busy, (client, working), strict=True)
    )
    click.echo(
        f"processor time a shard: {client:.1f} ms here and in the scheduler, {working:.1f} ms in a worker"
    )
    rows = [[f"{10 * (n + 1)} %", f"{peak / 1e6:.0f} MB"] for n, peak in enumerate(peaks)]
    click.echo(table(["done", "client and scheduler"], rows))


def _busy(cluster: Cluster) -> tuple[float, float]:
    """Processor time of this process, in which the scheduler of such a cluster is, and of all workers."""
    return time.process_time(), sum(cluster.on_each(time.process_time).values())


def _packed(number: int) -> bytes:
    part = [
        Lacking(ImageRow(f"class/{key}.jpg", "class", "train", "", key, 1, 1, 1, "ok", ""), (CENTER,))
        for key in map(_key, range(number * SHARD_ROWS, (number + 1) * SHARD_ROWS))
    ]
    return pack(part)


def _key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _resident() -> int:
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1000


_MATCH = """
import resource, sys, time
from pathlib import Path
from pipeline.features.listed import Listed
from pipeline.features.store import FeatureStore

def say(what, since):
    now = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{what}: {now - since:.1f} s, peak {peak:.0f} MB so far", flush=True)
    return now

began = now = time.perf_counter()
store = FeatureStore.open(Path(sys.argv[1]))
store.holds([])
now = say("store opened", now)
listed = Listed.of(Path(sys.argv[2]), ("center",))
now = say("manifest read", now)
lacking, different = len(listed.lacking(store)), listed.keys.different()
say(f"matched, {lacking} of {different} images lacking", now)
say("all", began)
print(f"processor time: {time.process_time():.1f} s")
"""


@main.command()
@click.option("--rows", "count", default=10_000_000, show_default=True)
@click.option("--lacking", default=1000, show_default=True, help="Images that the store has not.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to make it, and leave it.")
def rows(count: int, lacking: int, folder: Path | None) -> None:
    """Time the opening of a large store, and the matching of a manifest as large."""
    click.echo(described("numpy"))
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        store, manifest = place / "features", place / "manifest.csv"
        if not manifest.exists():
            _make(store, manifest, count, lacking)
        subprocess.run([sys.executable, "-c", _MATCH, store, manifest], check=True)


def _make(store: Path, manifest: Path, count: int, lacking: int) -> None:
    store.mkdir(parents=True)
    write_description(store, _IDENTITY)
    form, features = ShardFormat(_IDENTITY), np.ones((SHARD_ROWS, 1), np.float16)
    with manifest.open("w") as file, progress("make", count, "rows") as advance:
        file.write(",".join(HEADER) + "\n")
        for start in range(0, count, SHARD_ROWS):
            keys = [RowKey(_key(number)) for number in range(start, min(start + SHARD_ROWS, count))]
            file.writelines(
                f"class-{n // 10_000:05}/image-{n:010}.jpg,class,train,,{key.sha256},100000,500,375,ok,\n"
                for n, key in enumerate(keys, start)
            )
            if start + SHARD_ROWS <= count - lacking:
                data = form.encode(keys, features, {"device": "cpu"})
                # no sync for each, as they need not outlive the measurement
                (store / f"{hashlib.sha256(data).hexdigest()}.h5").write_bytes(data)
            advance(len(keys))


if __name__ == "__main__":
    main()
