"""What a worker of a Dask cluster does with a task that it is given: try it, and say who failed of what.

Owns which failures are of this worker, and which would be the same anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import ClusterError, DeviceError, PipelineError

Item = TypeVar("Item")
Common = TypeVar("Common")


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


def attempt(function: Callable[[Common, Item], Any], common: Common, item: Item) -> Any:
    """Do a task.

    Raises
    ------
    PipelineError
        The function raised it, and would do so anywhere; a `ClusterError` with the name of this worker.
    TaskFailed
        It raised anything else.
    """
    try:
        return function(common, item)
    except Exception as error:
        from distributed import get_worker

        if isinstance(error, ClusterError):
            raise ClusterError(f"worker {get_worker().address}: {error}") from None
        if isinstance(error, PipelineError) and not isinstance(error, DeviceError):
            raise
        raise TaskFailed(get_worker().address, f"{type(error).__name__}: {error}") from None


async def called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function on a worker, without keeping it from telling the scheduler that it is alive."""
    return await asyncio.to_thread(function, *arguments)
