"""The way to a Dask cluster: a scheduler to connect to, or one with a few processes of this machine.

Owns addresses, certificates, and what is said about them. What is then done there, it does not know.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.cluster import ATTEMPTS, Cluster
from pipeline.console import counted, note, printable, warn
from pipeline.errors import ClusterError

# Seconds for the scheduler to answer, and for the first worker to come.
_ANSWER = 10.0
_PATIENCE = 60.0


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster.

    Attributes
    ----------
    scheduler : str or None
        Its address, such as ``tcp://10.0.0.1:8786`` or ``tls://…``.
    workers : int or None
        Start so many processes on this machine instead, with a scheduler that listens on loopback.
    resource : str or None
        A task takes one of this resource of a worker (``dask worker --resources GPU=1``).
    tls_ca, tls_cert, tls_key : Path or None
        Certificates (PEM), for an address with ``tls://``.
    """

    scheduler: str | None = None
    workers: int | None = None
    resource: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@contextlib.contextmanager
def connected(options: ClusterOptions) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine, and say where it is.

    Raises
    ------
    ClusterError
        Dask is not installed, or there is no scheduler, or no worker comes.
    """
    try:
        import distributed
    except ImportError:
        raise ClusterError(
            "--scheduler and --workers-on-dask need Dask: run `pip install '.[cluster]'` in the folder of "
            "this package, here and on the workers."
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is told by this module
    with contextlib.ExitStack() as opened:
        cores = None
        if options.workers is not None:
            cores = max(1, (os.cpu_count() or 1) // options.workers)
            address: Any = opened.enter_context(_on_this_machine(options.workers, options.resource))
        else:
            address = options.scheduler
            _warn_if_open(address)
        security = _security(options)
        try:
            client = opened.enter_context(distributed.Client(address, security=security, timeout=_ANSWER))
        except (OSError, ValueError) as error:
            reason = printable(str(error)) or type(error).__name__
            raise ClusterError(
                f"--scheduler {printable(str(address))}: no connection ({reason}). `dask scheduler` starts "
                f"one, and says its address: tls://… if it speaks TLS, and otherwise tcp://…"
            ) from None
        if not client.nthreads():
            note(f"the scheduler has no worker yet; waiting for `dask worker {client.scheduler.address}`")
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise ClusterError(
                f"no worker has come to the scheduler {client.scheduler.address} in {_PATIENCE:.0f} s. "
                f"Start some with `dask worker`."
            ) from None
        cluster = Cluster(client, options.resource, cores)
        if not cluster.slots():
            raise ClusterError(
                f"no worker has the resource {options.resource!r}. "
                f"Start them with `dask worker --resources {options.resource}=1`."
            )
        note(
            f"{counted(len(client.nthreads()), 'worker')} at {client.scheduler.address}, "
            f"dashboard {client.dashboard_link}"
        )
        yield cluster


@contextlib.contextmanager
def _on_this_machine(workers: int, resource: str | None) -> Iterator[Any]:
    """Start a scheduler and workers that nobody else can reach, one task each at a time."""
    import dask
    from distributed import LocalCluster

    # a task that takes its worker down is given up when it has done so as often as it may fail
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS - 1}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address=None,
            resources={resource: 1} if resource else None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


def _security(options: ClusterOptions) -> Any:
    from distributed import Security

    files = (options.tls_ca, options.tls_cert, options.tls_key)
    if not any(files) and not (options.scheduler or "").startswith("tls:"):
        return None
    if not all(files):
        raise ClusterError("a scheduler at tls://… takes all three of --tls-ca, --tls-cert and --tls-key.")
    ca, cert, key = map(str, files)
    return Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)


def _warn_if_open(address: str) -> None:
    """Say what a scheduler without TLS is, where it can be reached from elsewhere."""
    parts = urlsplit(address)
    if parts.scheme == "tcp" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        warn(
            f"{printable(address)} is not encrypted: whoever reaches that scheduler can run code on its "
            f"workers, and as you. See docs/cluster.md for TLS."
        )
