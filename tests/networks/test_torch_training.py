from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import HeadError
from pipeline.heads.epochs import Epoch
from pipeline.heads.torch_head import TorchLinear
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.inputs import Batch, HeldInputs, Places, in_order
from pipeline.networks.torch_learner import Learner
from pipeline.networks.torch_training import Course, Labelled, Plan, Watch, learn

PLAN = Plan(epochs=4, batch_size=5, seed=2)


class Stopped(Exception):
    """What stops a run in these tests."""


class Fragile(HeldInputs):
    """Rows that stop coming, or come as no numbers, at one batch of one epoch."""

    def __init__(self, X: Batch, epoch: int, number: int, fault: str) -> None:
        super().__init__(X)
        self.at, self.fault = (epoch, number), fault

    def batches(self, order: Sequence[Places], epoch: int) -> Generator[Batch, None, None]:
        for number, batch in enumerate(super().batches(order, epoch)):
            if self.at == (epoch, number) and self.fault == "stop":
                raise Stopped
            yield np.full_like(batch, np.nan) if self.at == (epoch, number) else batch


def some_rows(count: int, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 2
    return (generator.normal(0, 1, (count, 8)) + y[:, None]).astype(np.float32), y


def learner(rate: float = 0.05, weight_decay: float = 0.0) -> Learner:
    network = torch.nn.Linear(8, 2)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    groups: list[dict[str, Any]] = [
        {"params": [network.weight], "weight_decay": weight_decay},
        {"params": [network.bias]},
    ]
    return Learner(network, torch.optim.Adam(groups, lr=rate), torch.device("cpu"), (8,))


TRAIN = Labelled(HeldInputs(some_rows(17)[0]), some_rows(17)[1])
VAL = Labelled(HeldInputs(some_rows(6, seed=1)[0]), some_rows(6, seed=1)[1])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoint.safetensors", {})


def weights(learner: Learner) -> list[bytes]:
    return [value.numpy().tobytes() for value in learner.network.state_dict().values()]


# --- which images, in which order


def test_learn__as_the_linear_head_does(checkpoint: Checkpoint) -> None:
    """The head's own solver, written without torch's optimisers, sees the same batches in the same order."""
    X, y = some_rows(17)
    head = TorchLinear(epochs=4, batch_size=5, weight_decay=0.02, random_state=2).fit(X, y, some_rows(6, 1))
    scale = 1 / math.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean())
    step = 0.5 / (scale * np.abs(X).sum(axis=1).mean() + 1)
    mine = learner(step, 0.02)
    train, val = (Labelled(HeldInputs(X * np.float32(scale)), y) for X, y in (some_rows(17), some_rows(6, 1)))
    course = learn(mine, train, val, PLAN, checkpoint)
    for found, expected in zip(course.history, head.history_, strict=True):
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
        assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-5)
        assert (found.train_accuracy, found.val_accuracy) == (
            expected.train_accuracy,
            expected.val_accuracy,
        )


def test_in_order() -> None:
    assert [batch.tolist() for batch in in_order(5, 2)] == [[0, 1], [2, 3], [4]]
    assert in_order(0, 2) == []


def test_watch__is_told_of_batches_and_epochs(checkpoint: Checkpoint) -> None:
    batches, epochs = list[Any](), list[Any]()
    watch = Watch(lambda *told: batches.append(told), lambda *told: epochs.append(told))
    course = learn(learner(), TRAIN, VAL, Plan(2, 5, 0), checkpoint, watch)
    assert [told[:2] for told in batches] == [(epoch, number) for epoch in (0, 1) for number in range(4)]
    assert [told[1] for told in epochs] == [2, 2]
    assert [told[0] for told in epochs] == course.history
    sizes = np.array([5, 5, 5, 2])
    losses = np.array([told[2] for told in batches[:4]])
    assert course.history[0].train_loss == pytest.approx((losses * sizes).sum() / 17)


# --- what is kept


class Scripted(Learner):
    """A learner whose scores are known beforehand; its bias counts the epochs."""

    def __init__(self, scores: Sequence[float]) -> None:
        network = torch.nn.Linear(8, 2)
        torch.nn.init.zeros_(network.bias)
        super().__init__(network, torch.optim.Adam(network.parameters()), torch.device("cpu"), (8,))
        self.scores = list(scores)

    def step(self, number: int, batch: Batch, codes: Any) -> tuple[float, float]:
        with torch.no_grad():
            bias: Any = self.network.bias
            bias += 1
        return 0.5, 0.5

    def score(self, batches: Any) -> tuple[float, float]:
        return self.scores.pop(0), 0.5


def kept(scores: Sequence[float], checkpoint: Checkpoint, **plan: Any) -> tuple[Course, float]:
    scripted = Scripted(scores)
    course = learn(scripted, TRAIN, VAL, Plan(6, 17, 0, **plan), checkpoint)
    bias: Any = scripted.network.bias
    return course, float(bias.detach()[0])


def test_best_epoch__the_first_of_the_lowest_loss(checkpoint: Checkpoint) -> None:
    course, bias = kept([5, 3, 4, 2, 2, 9], checkpoint)
    assert (course.best_epoch, course.best_loss, bias, len(course.history)) == (4, 2, 4.0, 6)
    assert course.start == {}
    checkpoint.file.unlink()
    course, bias = kept([5, 0, 1, 2, 3, 4], checkpoint)  # nothing is lower than none
    assert (course.best_epoch, course.best_loss, bias) == (2, 0, 2.0)


def test_patience__stops(checkpoint: Checkpoint) -> None:
    course, bias = kept([5, 3, 4, 4, 2, 2], checkpoint, patience=2)
    assert (course.best_epoch, bias, len(course.history)) == (2, 2.0, 4)


def test_from_start__keeps_what_was_there_where_nothing_is_better(checkpoint: Checkpoint) -> None:
    course, bias = kept([1, 3, 4, 4], checkpoint, patience=3, from_start=True)
    assert (course.best_epoch, bias, len(course.history)) == (0, 0.0, 3)
    assert course.start == {"val_loss": 1, "val_accuracy": 0.5}
    checkpoint.file.unlink()
    course, bias = kept([1, 0.5, 4, 4, 4], checkpoint, patience=3, from_start=True)
    assert (course.best_epoch, bias, len(course.history)) == (1, 1.0, 4)


def test_without_val__the_last_epoch_is_kept(checkpoint: Checkpoint) -> None:
    mine, again = learner(), learner()
    course = learn(mine, TRAIN, None, PLAN, checkpoint)
    assert course.best_epoch == 4
    assert {epoch.val_loss for epoch in course.history} == {None}
    checkpoint.file.unlink()
    learn(again, TRAIN, VAL, Plan(4, 5, 2), checkpoint)
    assert weights(mine) == [value.numpy().tobytes() for value in _last(checkpoint)]


def _last(checkpoint: Checkpoint) -> list[torch.Tensor]:
    saved = checkpoint.read()
    assert saved is not None
    return [saved[0][f"now.network.{name}"] for name in ("weight", "bias")]


# --- stopped, and gone on with


@pytest.mark.parametrize(("epoch", "number"), [(1, 0), (1, 3), (2, 0), (3, 2), (4, 3)])
def test_stopped__goes_on_to_the_same_end(checkpoint: Checkpoint, epoch: int, number: int) -> None:
    plan = Plan(4, 5, 2, patience=9, from_start=True)
    whole = learner()
    expected = learn(whole, TRAIN, VAL, plan, Checkpoint(checkpoint.file.with_name("other"), {}))
    fragile = Labelled(Fragile(some_rows(17)[0], epoch, number, "stop"), TRAIN.y)
    with pytest.raises(Stopped):
        learn(learner(), fragile, VAL, plan, checkpoint)
    assert checkpoint.file.is_file() == (epoch > 1)
    mine, told = learner(), list[Epoch]()
    course = learn(mine, TRAIN, VAL, plan, checkpoint, Watch(epoch=lambda epoch, _: told.append(epoch)))
    assert weights(mine) == weights(whole)
    assert course.history == expected.history
    assert (course.best_epoch, course.best_loss, course.start) == (
        expected.best_epoch,
        expected.best_loss,
        expected.start,
    )
    assert [each.epoch for each in told] == list(range(epoch, 5))


def test_stopped__after_the_last_epoch(checkpoint: Checkpoint) -> None:
    whole, again = learner(), learner()
    learn(whole, TRAIN, VAL, PLAN, checkpoint)
    course = learn(again, Labelled(Fragile(some_rows(17)[0], 1, 0, "stop"), TRAIN.y), VAL, PLAN, checkpoint)
    assert weights(again) == weights(whole)
    assert len(course.history) == 4


def test_stopped__patience_is_not_forgotten(checkpoint: Checkpoint) -> None:
    kept([5, 3, 4, 4], checkpoint, patience=2)
    course, bias = kept([], checkpoint, patience=2)
    assert (course.best_epoch, bias, len(course.history)) == (2, 2.0, 4)


# --- losses that are no numbers


def test_nan__is_named_and_the_last_good_state_kept(checkpoint: Checkpoint) -> None:
    fragile = Labelled(Fragile(some_rows(17)[0], 3, 1, "nan"), TRAIN.y)
    with pytest.raises(HeadError, match="epoch 3, batch 2: the loss is not finite") as caught:
        learn(learner(), fragile, VAL, PLAN, checkpoint)
    assert f"The state after epoch 2 is kept in {checkpoint.file}." in str(caught.value)
    assert str(caught.value).endswith("Lower --learning-rate, and run again.")
    reference = Checkpoint(checkpoint.file.with_name("reference"), {})
    with pytest.raises(Stopped):
        learn(learner(), Labelled(Fragile(some_rows(17)[0], 3, 0, "stop"), TRAIN.y), VAL, PLAN, reference)
    assert [value.numpy().tobytes() for value in _last(checkpoint)] == [
        value.numpy().tobytes() for value in _last(reference)
    ]


def test_nan__in_the_first_epoch_leaves_nothing(checkpoint: Checkpoint) -> None:
    with pytest.raises(HeadError, match=r"epoch 1, batch 1: the loss is not finite\. Lower --learning-rate"):
        learn(learner(), Labelled(Fragile(some_rows(17)[0], 1, 0, "nan"), TRAIN.y), VAL, PLAN, checkpoint)
    assert not checkpoint.file.exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan__on_the_validation_images(checkpoint: Checkpoint, bad: float) -> None:
    with pytest.raises(HeadError, match="epoch 2: the loss on the validation images is not finite"):
        kept([3, bad], checkpoint)
    saved = checkpoint.read()
    assert saved is not None
    assert len(saved[1]["history"]) == 1


def test_nan__in_a_weight_after_the_last_batch(checkpoint: Checkpoint) -> None:
    broken = learner()
    step = broken.step

    def overflowing(number: int, batch: Batch, codes: Any) -> tuple[float, float]:
        result = step(number, batch, codes)
        if number == 3:
            with torch.no_grad():
                bias: Any = broken.network.bias
                bias += math.inf
        return result

    broken.step = overflowing  # type: ignore[method-assign]
    with pytest.raises(HeadError, match="epoch 1: a weight is not finite"):
        learn(broken, TRAIN, None, PLAN, checkpoint)
    assert not checkpoint.file.exists()
