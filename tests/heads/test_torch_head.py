from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator

from pipeline.heads.torch_head import Epoch, TorchLinear

Matrix = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def rows(n: int, seed: int = 0, columns: int = 200) -> tuple[Matrix, Labels]:
    """Sparse, large, non-negative rows of three classes that a linear layer can tell apart."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = random.exponential(50, (n, columns)) * (random.random((n, columns)) < 0.2)
    X[np.arange(n)[:, None], 10 * y[:, None] + np.arange(10)] += 200
    return X.astype(np.float32), y


def test_check_estimator() -> None:
    # The checks train on a handful of rows of 2 to 20 columns: they want larger steps than VGG16's features.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # pandas and array API are not installed
        results = check_estimator(TorchLinear(learning_rate=0.1), on_fail=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 40


def test_fit__equals_the_plain_loop() -> None:
    X, y = rows(50)
    head = TorchLinear(epochs=3, batch_size=8, learning_rate=0.01, weight_decay=0.1, random_state=4).fit(X, y)

    torch.set_num_threads(1)
    torch.manual_seed(int(np.random.RandomState(4).randint(2**31 - 1)))
    scale = 1 / np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean())
    layer = torch.nn.Linear(200, 3)
    adam = torch.optim.Adam(layer.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        order = torch.randperm(50)
        for start in range(0, 50, 8):
            batch = order[start : start + 8]
            loss = torch.nn.functional.cross_entropy(
                layer(torch.from_numpy(X * np.float32(scale))[batch]), torch.from_numpy(y)[batch]
            )
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    with torch.inference_mode():
        expected = layer(torch.from_numpy(X * np.float32(scale))).softmax(1).numpy()

    assert head.coef_.shape == (3, 200)
    assert head.coef_.dtype == head.intercept_.dtype == np.float32
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_allclose(head.coef_ / scale, layer.weight.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_fit__learns() -> None:
    X, y = rows(90)
    unseen, labels = rows(60, seed=1)
    head = TorchLinear(random_state=0).fit(X, y)
    assert head.score(unseen, labels) == 1.0


def test_fit__labels_of_any_kind() -> None:
    X, y = rows(60)
    names = np.array(["owl", "cat", "dog"])[y]
    head = TorchLinear(random_state=0).fit(X, names)
    assert head.classes_.tolist() == ["cat", "dog", "owl"]
    assert head.predict(X).tolist() == names.tolist()
    assert head.n_features_in_ == 200


def test_fit__same_bits_for_any_number_of_threads() -> None:
    X, y = rows(60)
    before = torch.get_num_threads()
    weights = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            weights.append(TorchLinear(epochs=2, random_state=1).fit(X, y).coef_)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert weights[0].tobytes() == weights[1].tobytes() == weights[2].tobytes()


def test_fit__leaves_torchs_random_state_alone() -> None:
    X, y = rows(30)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    TorchLinear(epochs=1, random_state=1).fit(X, y)
    assert torch.equal(torch.rand(3), expected)


def test_fit__seeds_differ() -> None:
    X, y = rows(30)
    first, second = (TorchLinear(epochs=1, random_state=seed).fit(X, y).coef_ for seed in (0, 1))
    assert not np.array_equal(first, second)


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
    ],
)
def test_fit__parameter_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} must be"):
        TorchLinear(**parameters).fit(*rows(30))


def test_fit__validation_label_unknown() -> None:
    X, y = rows(30)
    with pytest.raises(ValueError, match="validation rows have labels"):
        TorchLinear().fit(X, y, validation=(X, y + 1))
