"""The torch head's log and early stop, and what it refuses."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from pipeline.heads.epochs import Epoch
from pipeline.heads.torch_head import TorchLinear
from tests.heads.sparse_rows import rows


def test_history__logs_train_and_validation() -> None:
    X, y = rows(60)
    validation = rows(30, seed=1)
    told: list[Epoch] = []
    head = TorchLinear(epochs=6, random_state=0).fit(X, y, validation=validation, on_epoch=told.append)
    assert told == head.history_
    assert [epoch.epoch for epoch in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1].train_loss < told[0].train_loss
    assert told[-1].val_loss is not None
    # The last entry is about the weights that are kept.
    probabilities = head.predict_proba(validation[0])
    loss = -np.log(probabilities[np.arange(30), validation[1]]).mean()
    assert told[-1].val_loss == pytest.approx(loss, rel=1e-4)
    assert told[-1].val_accuracy == head.score(*validation)


def test_history__newton_logs_every_step() -> None:
    X, y = rows(60)
    told: list[Epoch] = []
    head = TorchLinear("newton-cg").fit(X, y, validation=(X, y), on_epoch=told.append)
    assert told == head.history_
    assert [epoch.epoch for epoch in told] == list(range(1, len(told) + 1))
    assert 3 < len(told) < 20
    assert head.best_epoch_ == len(told)
    assert told[-1].train_loss < told[0].train_loss
    for epoch in told:  # on the same rows, after the same step
        assert epoch.val_loss == pytest.approx(epoch.train_loss, rel=1e-3, abs=1e-6)
        assert epoch.val_accuracy == epoch.train_accuracy


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_fit__patience_keeps_the_best_epoch(solver: Literal["adam", "newton-cg"]) -> None:
    X, y = rows(40)
    validation = rows(30, seed=1)
    y[:20] = np.roll(y[:20], 1)  # so that there is something wrong to learn
    settings: dict[str, Any] = {
        "solver": solver,
        "weight_decay": 1e-6,
        "random_state": 0,
    }
    patient = TorchLinear(**settings).fit(X, y, validation=validation)
    head = TorchLinear(**settings, patience=2).fit(X, y, validation=validation)

    losses = [epoch.val_loss for epoch in patient.history_ if epoch.val_loss is not None]
    best = int(np.argmin(losses[: len(head.history_)]))
    assert head.history_ == patient.history_[: len(head.history_)]
    assert head.best_epoch_ == best + 1
    assert len(head.history_) == head.best_epoch_ + 2 < len(patient.history_)
    assert patient.best_epoch_ == len(patient.history_)
    probabilities = head.predict_proba(validation[0])
    loss = -np.log(probabilities[np.arange(30), validation[1]]).mean()
    assert loss == pytest.approx(losses[best], rel=1e-4)


def test_fit__patience_needs_validation_rows() -> None:
    with pytest.raises(ValueError, match="patience needs validation rows"):
        TorchLinear(patience=2).fit(*rows(30))


def test_history__without_validation() -> None:
    history = TorchLinear(epochs=2, random_state=0).fit(*rows(30)).history_
    assert [(epoch.val_loss, epoch.val_accuracy) for epoch in history] == [(None, None)] * 2


def test_fit__validation_rows_teach_nothing() -> None:
    X, y = rows(60)
    alone = TorchLinear(epochs=2, random_state=0).fit(X, y)
    watched = TorchLinear(epochs=2, random_state=0).fit(X, y, validation=rows(30, seed=9))
    assert alone.coef_.tobytes() == watched.coef_.tobytes()


def test_fit__constant_zero_rows() -> None:
    head = TorchLinear(epochs=1, random_state=0).fit(np.zeros((4, 3), np.float32), [0, 1, 0, 1])
    assert np.isfinite(head.coef_).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"learning_rate": "fast"},
        {"learning_rate": float("nan")},
        {"weight_decay": -1},
        {"weight_decay": 0, "solver": "newton-cg"},
        {"solver": "sgd"},
        {"device": "tpu"},
        {"patience": 0},
        {"label_smoothing": 1},
        {"class_weight": {0: 0.0}},
        {"class_weight": {0: float("inf")}},
    ],
)
def test_fit__parameter_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} must"):
        TorchLinear(**parameters).fit(*rows(30))


def test_fit__validation_label_unknown() -> None:
    X, y = rows(30)
    with pytest.raises(ValueError, match="validation rows have labels"):
        TorchLinear().fit(X, y, validation=(X, y + 1))


def test_fit__class_weight_of_no_class() -> None:
    with pytest.raises(ValueError, match="class_weight"):
        TorchLinear(class_weight={0: 1, 7: 2}).fit(*rows(30))


def test_fit__loss_that_is_not_finite() -> None:
    X, y = rows(30)
    with pytest.raises(ValueError, match=r"epoch 1, batch 2: the loss is not finite; lower learning_rate"):
        TorchLinear(learning_rate=1e39, batch_size=8, random_state=0).fit(X, y)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test__numbers_that_are_not_finite(bad: float, dtype: str) -> None:
    X, y = rows(30)
    X = X.astype(dtype)
    damaged = X.copy()
    damaged[17, 100] = bad
    for fit in (
        lambda: TorchLinear().fit(damaged, y),
        lambda: TorchLinear().fit(X, y, validation=(damaged, y)),
        lambda: TorchLinear(random_state=0).fit(X, y).predict(damaged),
    ):
        with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
            fit()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_fit__no_cuda_device() -> None:
    X, y = rows(30)
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        TorchLinear(device="cuda").fit(X, y)
    on = [TorchLinear(device=device, random_state=0).fit(X, y).coef_.tobytes() for device in ("auto", "cpu")]
    assert on[0] == on[1]
