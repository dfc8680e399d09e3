"""Work shared out by Dask: tasks in, what they return out, in whatever order they are finished.

Owns how many tasks are under way, and who may try one again. Dask owns the queue, the workers, and what
happens when one dies. It does not know what a task is; a task's function has to be importable on the
workers, and what it is given and returns goes through the scheduler, so it is small.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pipeline.agreement import releases, require_alike, require_same
from pipeline.console import printable, warn
from pipeline.errors import ClusterError, DeviceError, PipelineError

#: How often a task is tried before it is given up.
ATTEMPTS = 3

# Tasks under way for each that can run: one runs, one waits; the scheduler knows of no more.
_PER_SLOT = 2
_LEAST = 4
# Seconds between looks at how many workers there are, while nothing else happens.
_LOOK = 30.0

Item = TypeVar("Item")
Common = TypeVar("Common")


@dataclass(frozen=True)
class Lost:
    """A task that was given up.

    Attributes
    ----------
    reason : str
        What its last attempt met, and where.
    """

    reason: str


class Outcome(NamedTuple, Generic[Item]):
    """An item, and what its task returned, or that it was lost."""

    item: Item
    result: Any


class TaskFailed(Exception):
    """A task failed for a reason that another worker may not have.

    Attributes
    ----------
    worker, reason : str
        Who met what.
    """

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(worker, reason)  # as Exception is pickled: made anew of its arguments
        self.worker = worker
        self.reason = reason


@dataclass(frozen=True)
class Cluster:
    """A connection.

    Attributes
    ----------
    client : distributed.Client
        Of this process.
    resource : str or None
        What a task takes one of.
    cores : int or None
        Processors for each worker, where this process has started them.
    """

    client: Any = field(repr=False)
    resource: str | None = None
    cores: int | None = None

    def on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call a function on every worker, outside of the queue; return what each returned, by address.

        Raises
        ------
        ClusterError
            A worker cannot import this package's code, or the function found something wrong with it.
        PipelineError
            Another such that the function raised.
        """
        results: dict[str, Any] = self.client.run(_called, function, arguments, on_error="return")
        for worker, found in results.items():
            if isinstance(found, ImportError | AttributeError):
                raise ClusterError(
                    f"worker {worker} has another release of this package, or none ({found}). Install there "
                    f"what is installed here."
                )
            if isinstance(found, ClusterError):
                raise ClusterError(f"worker {worker}: {found}")
            if isinstance(found, BaseException):
                raise found
        return results

    def require_alike(self, folder: Path, *others: Path) -> None:
        """See that every worker runs what this process runs, in the same folders.

        Parameters
        ----------
        folder : Path
            That a worker may write to, or its results go astray: proved by a file.
        *others : Path
            That it reads.

        Raises
        ------
        ClusterError
            A worker has another release of something, or other folders.
        """
        token = folder.absolute() / f".{secrets.token_hex(8)}.tmp"
        token.touch()
        try:
            try:
                self.client.run_on_scheduler(require_same, releases())
            except (ClusterError, ImportError, AttributeError) as error:
                raise ClusterError(
                    f"the scheduler has another release of something, or not this package: {error}. It reads "
                    f"what its tasks are: install there what is installed here."
                ) from None
            self.on_each(require_alike, releases(), token, [other.absolute() for other in others])
        finally:
            token.unlink(missing_ok=True)

    def slots(self) -> int:
        """Return how many tasks can run at a time."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if self.resource is None:
            return sum(worker["nthreads"] for worker in workers)
        return sum(int(worker["resources"].get(self.resource, 0)) for worker in workers)

    def outcomes(
        self, function: Callable[[Common, Item], Any], common: Common, items: Iterable[Item]
    ) -> Iterator[Outcome[Item]]:
        """Have a function called with each of the items, few of them under way at a time.

        One that fails is tried again by another worker, `ATTEMPTS` times in all. A worker that dies, or is
        not heard of, is Dask's business, which gives its tasks to others.

        Parameters
        ----------
        function : callable
            Of a module of this package.
        common : object
            Its first argument, the same for all.
        items : iterable
            Its second argument.

        Yields
        ------
        Outcome
            In the order in which they come.

        Raises
        ------
        PipelineError
            The function raised it, and it would do so anywhere; only a `DeviceError` is of one worker.
        ClusterError
            The scheduler has gone.
        """
        flights: dict[Any, _Flight[Item]] = {}
        landed: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def begin(flight: _Flight[Item]) -> None:
            elsewhere = {}
            if flight.failed_on:
                others = [worker for worker in self.client.nthreads() if worker not in flight.failed_on]
                # preferred only: they may all have gone when it is its turn
                elsewhere = {"workers": others, "allow_other_workers": True}
            future = self.client.submit(
                _attempt,
                function,
                common,
                flight.item,
                key=f"{function.__name__}-{secrets.token_hex(8)}",
                pure=False,
                resources=self.resource and {self.resource: 1},
                **elsewhere,
            )
            flights[future] = flight
            future.add_done_callback(landed.put)

        waiting, most = iter(items), self._most()
        try:
            while True:
                for item in itertools.islice(waiting, max(0, most - len(flights))):
                    begin(_Flight(item, []))
                if not flights:
                    return
                try:
                    future = landed.get(timeout=_LOOK)
                except queue.Empty:
                    most = self._most()
                    continue
                flight = flights.pop(future)
                if (failure := _failure(future)) is None:
                    result = future.result()
                    future.release()
                    yield Outcome(flight.item, result)
                    continue
                flight.failed_on.append(failure.worker)
                if failure.worker and len(flight.failed_on) < ATTEMPTS:
                    warn(f"{printable(failure.reason)}, on worker {failure.worker}: tried again elsewhere")
                    begin(flight)
                    continue
                where = f", on worker {failure.worker}" if failure.worker else ""
                yield Outcome(flight.item, Lost(f"{failure.reason}{where}"))
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # the scheduler has gone
                self.client.cancel(list(flights))

    def jobs(self) -> contextlib.AbstractContextManager[object]:
        """Have joblib's jobs done by this cluster, in a ``with`` statement."""
        from joblib import parallel_config

        context: contextlib.AbstractContextManager[object] = parallel_config("dask")
        return context

    def _most(self) -> int:
        slots = self.slots()
        if not slots:
            warn("the cluster has no worker that could do this: waiting for one")
        return max(_LEAST, _PER_SLOT * slots)


@dataclass
class _Flight(Generic[Item]):
    """An item whose task is under way, and the workers that failed to do it."""

    item: Item
    failed_on: list[str]


def _failure(future: Any) -> TaskFailed | None:
    """Return what a task failed of; a failure without a worker is not to be tried again."""
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        return None
    if future.status != "error":
        raise ClusterError("the scheduler has gone, or was restarted. Run the same command again.")
    error = future.exception()
    if isinstance(error, TaskFailed):
        return error
    if isinstance(error, KilledWorker):
        return TaskFailed("", f"{error.allowed_failures + 1} workers died while they did it")
    raise error


def _attempt(function: Callable[[Common, Item], Any], common: Common, item: Item) -> Any:
    """Run a task on a worker."""
    try:
        return function(common, item)
    except Exception as error:
        from distributed import get_worker

        if isinstance(error, ClusterError):
            raise ClusterError(f"worker {get_worker().address}: {error}") from None
        if isinstance(error, PipelineError) and not isinstance(error, DeviceError):
            raise
        raise TaskFailed(get_worker().address, f"{type(error).__name__}: {error}") from None


async def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function on a worker, without keeping it from telling the scheduler that it is alive."""
    import asyncio

    return await asyncio.to_thread(function, *arguments)
