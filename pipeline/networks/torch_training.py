"""Epoch after epoch: what is learned from, what is scored, what is kept, and going on after a stop.

Owns the order of images, the choice of the epoch, and the checkpoints. How a step is made is the learner's
business; where a batch comes from, that of its inputs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.console import note, printable, progress
from pipeline.errors import HeadError
from pipeline.heads.epochs import Epoch
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.inputs import Batch, Inputs, Places, in_order
from pipeline.networks.torch_learner import Codes, Learner, exact_kernels


@dataclass(frozen=True)
class Labelled:
    """Images of a split, on their way to the network, and their classes, shape (n,)."""

    inputs: Inputs
    y: Codes


@dataclass(frozen=True)
class Plan:
    """How long to learn, and what to keep.

    Attributes
    ----------
    epochs, batch_size : int
    seed : int
        Of the order of images; the same orders as `TorchLinear` takes.
    patience : int or None
        Stop when the loss on the validation images has not fallen for so many epochs.
    from_start : bool
        Whether the network as it comes is scored, too, and kept where no epoch is better.
    """

    epochs: int
    batch_size: int
    seed: int
    patience: int | None = None
    from_start: bool = False


@dataclass
class Course:
    """How a training went.

    Attributes
    ----------
    history : list of Epoch
    best_epoch : int
        Whose network was kept; 0 for the one that was there before.
    best_loss : float
        On the validation images.
    start : dict of str to float
        ``val_loss`` and ``val_accuracy`` of the network as it came, if it was scored.
    seconds : float
        Spent in epochs, those before an interruption included.
    """

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    start: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Watch:
    """Who is told of what happens: each batch, by epoch and number counted from 0, and each epoch."""

    batch: Callable[[int, int, float, float], None] = lambda epoch, number, loss, accuracy: None
    epoch: Callable[[Epoch, int], None] = lambda epoch, epochs: None


def learn(
    learner: Learner,
    train: Labelled,
    val: Labelled | None,
    plan: Plan,
    checkpoint: Checkpoint,
    watch: Watch = Watch(),
) -> Course:
    """Let a network learn, from where an interrupted run of the same settings left it.

    The state is kept after every epoch; a run that is stopped and goes on ends with the same network.

    Parameters
    ----------
    learner : Learner
        Its network ends as it was after the epoch with the lowest loss on `val`, or, without `val`, after
        the last.
    train : Labelled
        To learn from.
    val : Labelled, optional
        Scored after each epoch and never learned from.
    plan : Plan
    checkpoint : Checkpoint
    watch : Watch

    Raises
    ------
    HeadError
        The loss ceased to be finite. The state after the last good epoch is kept.
    """
    course, best = Course(), {}
    with exact_kernels():
        saved = checkpoint.read()
        if saved is not None:
            tensors, done = saved
            best = _taken("best.", tensors)
            learner.restore(_taken("now.", tensors))
            course = _course(done)
            note(f"going on after epoch {len(course.history)} of {plan.epochs}")
        elif plan.from_start and val is not None:
            loss, accuracy = learner.score(_labelled(val, plan.batch_size))
            course.start, course.best_loss = {"val_loss": loss, "val_accuracy": accuracy}, loss
            best = _network(learner)
        orders = _orders(len(train.y), plan)
        for epoch, order in enumerate(orders, start=1):
            if epoch <= len(course.history):
                continue
            if _is_over(course, plan):
                break
            started = time.perf_counter()
            train_loss, train_accuracy = _pass(learner, train, order, epoch, plan, checkpoint, watch)
            scores = learner.score(_labelled(val, plan.batch_size)) if val is not None else (None, None)
            lost = scores[0] is not None and not math.isfinite(scores[0])
            if lost or not learner.is_finite():
                what = "the loss on the validation images" if lost else "a weight"
                raise _not_finite(f"epoch {epoch}: {what}", epoch, checkpoint)
            course.history.append(Epoch(epoch, train_loss, train_accuracy, *scores))
            if scores[0] is None or scores[0] < course.best_loss:
                course.best_epoch = epoch
                course.best_loss = math.inf if scores[0] is None else scores[0]
                best = _network(learner)
            course.seconds += time.perf_counter() - started
            state = {f"now.{name}": value for name, value in learner.state().items()}
            state |= {f"best.{name}": value for name, value in best.items()}
            checkpoint.write(state, asdict(course) | {"best_loss": _finite_or_none(course.best_loss)})
            watch.epoch(course.history[-1], plan.epochs)
    learner.network.load_state_dict(best)
    return course


def _pass(
    learner: Learner,
    train: Labelled,
    order: list[Places],
    epoch: int,
    plan: Plan,
    checkpoint: Checkpoint,
    watch: Watch,
) -> tuple[float, float]:
    """Learn from all images once; return the means over them, each taken before it was learned from."""
    losses, hits = 0.0, 0.0
    with (
        progress(f"epoch {epoch}/{plan.epochs}", len(train.y)) as advance,
        contextlib.closing(train.inputs.batches(order, epoch)) as batches,
    ):
        for number, (places, batch) in enumerate(zip(order, batches, strict=False)):
            step = (epoch - 1) * len(order) + number
            loss, accuracy = learner.step(step, batch, train.y[places])
            if not math.isfinite(loss):
                raise _not_finite(f"epoch {epoch}, batch {number + 1}: the loss", epoch, checkpoint)
            losses += loss * len(places)
            hits += accuracy * len(places)
            advance(len(places))
            watch.batch(epoch - 1, number, loss, accuracy)
    return losses / len(train.y), hits / len(train.y)


def _not_finite(what: str, epoch: int, checkpoint: Checkpoint) -> HeadError:
    kept = ""
    if checkpoint.file.is_file():
        kept = f" The state after epoch {epoch - 1} is kept in {printable(str(checkpoint.file))}."
    return HeadError(f"{what} is not finite.{kept} Lower --learning-rate, and run again.")


def _is_over(course: Course, plan: Plan) -> bool:
    return plan.patience is not None and len(course.history) - course.best_epoch >= plan.patience


def _orders(count: int, plan: Plan) -> Iterator[list[Places]]:
    """Shuffle the places of so many images for each epoch, and cut them into batches."""
    seed = int(np.random.RandomState(plan.seed).randint(2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(plan.epochs):
        order = torch.randperm(count, generator=generator)
        yield [batch.numpy() for batch in torch.split(order, plan.batch_size)]


def _labelled(val: Labelled, batch_size: int) -> Generator[tuple[Batch, Codes], None, None]:
    order = in_order(len(val.y), batch_size)
    with contextlib.closing(val.inputs.batches(order, 0)) as batches:
        for places, batch in zip(order, batches, strict=False):
            yield batch, val.y[places]


def _network(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in learner.network.state_dict().items()}


def _taken(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _course(done: dict[str, Any]) -> Course:
    history = [Epoch(**epoch) for epoch in done.pop("history")]
    best_loss = done.pop("best_loss")
    return Course(history=history, best_loss=math.inf if best_loss is None else best_loss, **done)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
