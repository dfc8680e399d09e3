from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils import compute_sample_weight
from sklearn.utils.estimator_checks import check_estimator

from pipeline.heads.epochs import Epoch
from pipeline.heads.torch_head import TorchLinear
from tests.heads.sparse_rows import rows


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_check_estimator(solver: Literal["adam", "newton-cg"]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # pandas and array API are not installed
        # of one row and of many, BLAS adds float32 in another order on some CPUs: 2e-7 of a probability
        rounded = {"check_methods_subset_invariance": "it asks for 1e-7, which float32 does not have"}
        results = check_estimator(TorchLinear(solver), on_fail=None, expected_failed_checks=rounded)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 40


def test_fit__equals_the_plain_loop() -> None:
    X, y = rows(50)
    parameters: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 0.3, "weight_decay": 0.1}
    head = TorchLinear(**parameters, class_weight={0: 2.0}, label_smoothing=0.1, random_state=4).fit(X, y)

    scale = 1 / np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean())
    step = 0.3 / (np.abs(X * scale).sum(axis=1).mean() + 1)
    weight = np.where(y == 0, 2.0, 1.0)
    weight /= weight.mean()
    layer = torch.nn.Linear(200, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups: list[dict[str, Any]] = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
    adam = torch.optim.Adam(groups, lr=step)
    generator = torch.Generator().manual_seed(int(np.random.RandomState(4).randint(2**31 - 1)))
    for _ in range(3):
        order = torch.randperm(50, generator=generator)
        for start in range(0, 50, 8):
            batch = order[start : start + 8]
            losses = torch.nn.functional.cross_entropy(
                layer(torch.from_numpy(X * np.float32(scale))[batch]),
                torch.from_numpy(y)[batch],
                reduction="none",
                label_smoothing=0.1,
            )
            adam.zero_grad()
            (losses * torch.from_numpy(weight)[batch]).mean().backward()  # type: ignore[no-untyped-call]
            adam.step()
    with torch.inference_mode():
        expected = layer(torch.from_numpy(X * np.float32(scale))).softmax(1).numpy()

    assert head.coef_.shape == (3, 200)
    assert head.coef_.dtype == head.intercept_.dtype == np.float32
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_allclose(head.coef_ / scale, layer.weight.detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0}])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_fit__newton_finds_the_minimum_that_scikit_learn_finds(n_classes: int, class_weight: Any) -> None:
    X, y = rows(90, columns=60)
    X, y = X[y < n_classes][7:], y[y < n_classes][7:]
    decay = 1e-3
    head = TorchLinear("newton-cg", weight_decay=decay, class_weight=class_weight).fit(X, y)

    scale = 1 / np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean())
    total = compute_sample_weight(class_weight, y).sum()
    expected = LogisticRegression(
        C=(2 if n_classes == 2 else 1) / (decay * total),
        class_weight=class_weight,
        solver="newton-cholesky",
        tol=1e-12,
        max_iter=1000,
    ).fit(X * scale, y)

    scores = head.decision_function(X)
    np.testing.assert_allclose(scores, expected.decision_function(X * scale), rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(X * scale), atol=5e-6)
    coefficients = head.coef_ if n_classes == 3 else head.coef_[1:] - head.coef_[:1]
    np.testing.assert_allclose(coefficients / scale, expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())


def test_fit__newton_is_not_random() -> None:
    X, y = rows(40)
    first, second = (TorchLinear("newton-cg", random_state=seed).fit(X, y) for seed in (0, 1))
    assert first.coef_.tobytes() == second.coef_.tobytes()


def test_fit__adam_comes_near_newtons_minimum() -> None:
    X, y = rows(60)
    adam = TorchLinear(epochs=300, learning_rate=0.1, weight_decay=1e-2, random_state=0).fit(X, y)
    newton = TorchLinear("newton-cg", weight_decay=1e-2).fit(X, y)
    np.testing.assert_allclose(adam.predict_proba(X), newton.predict_proba(X), atol=0.02)


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_fit__a_weight_of_two_is_a_row_twice(solver: Literal["adam", "newton-cg"]) -> None:
    X, y = rows(60)
    X /= np.linalg.norm(X, axis=1, keepdims=True)  # so that both are scaled alike
    y[::5] = 0
    # All rows in one batch, so that both learn the same at each step.
    settings: dict[str, Any] = {"solver": solver, "batch_size": 100, "weight_decay": 1e-2, "random_state": 0}
    weighted = TorchLinear(**settings, class_weight={1: 2}).fit(X, y)
    doubled = TorchLinear(**settings).fit(np.concatenate([X, X[y == 1]]), np.concatenate([y, y[y == 1]]))
    np.testing.assert_allclose(weighted.predict_proba(X), doubled.predict_proba(X), atol=1e-3)
    plain = TorchLinear(**settings).fit(X, y)
    assert np.abs(plain.predict_proba(X) - doubled.predict_proba(X)).max() > 0.01


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_fit__size_of_features_does_not_matter(solver: Literal["adam", "newton-cg"]) -> None:
    X, y = rows(60)
    expected = TorchLinear(solver, random_state=0).fit(X, y).predict_proba(X)
    for factor in np.array([1e-20, 1e-3, 1e20], np.float32):
        head = TorchLinear(solver, random_state=0).fit(X * factor, y)
        np.testing.assert_allclose(head.predict_proba(X * factor), expected, atol=1e-4)


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_fit__same_bits_however_the_rows_are_held(
    solver: Literal["adam", "newton-cg"], tmp_path: Path
) -> None:
    X, y = rows(60)
    half = X.astype(np.float16)
    X = half.astype(np.float32)
    np.save(tmp_path / "half.npy", half)
    expected = TorchLinear(solver, epochs=12, random_state=0).fit(X, y)
    scores = expected.decision_function(X)
    for same in (
        half,
        np.load(tmp_path / "half.npy", mmap_mode="r"),
        X.astype(np.float64),
        np.ascontiguousarray(X[::-1])[::-1],
        X.tolist(),
    ):
        head = TorchLinear(solver, epochs=12, random_state=0).fit(same, y, validation=(same, y))
        assert head.coef_.tobytes() == expected.coef_.tobytes()
        np.testing.assert_array_equal(head.decision_function(same), scores)
    np.testing.assert_array_equal(np.load(tmp_path / "half.npy"), half)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process allocates")
def test_fit__memory_mapped_rows_are_never_copied_whole(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from pipeline.heads.torch_head import TorchLinear

def fit(X):
    y = np.arange(len(X)) % 2
    for settings in ({"epochs": 1}, {"solver": "newton-cg", "weight_decay": 10.0}):
        TorchLinear(**settings, device="cpu", random_state=0).fit(X, y, validation=(X, y)).predict(X)

some = np.random.default_rng(0).random((64, 25088)).astype(np.float16)
fit(some)
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
for dtype in ("float16", "float32"):
    X = np.lib.format.open_memmap(sys.argv[1], "w+", dtype, (1024, 25088))
    for start in range(0, len(X), 64):
        X[start : start + 64] = some
    X = np.load(sys.argv[1], mmap_mode="r")
    limit = used + X.size  # a byte a number
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    fit(X)
    try:
        X.copy()
    except MemoryError:
        print("too large to be copied")
print(*[name for name in ("torch._dynamo",) if name in sys.modules])
"""
    # glibc gives large blocks back at once: by default it learns to keep them, and how many differs.
    allocator = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "X.npy"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | allocator,
    )
    assert done.returncode == 0, done.stderr
    # The last line is of torch's compiler, whose import would take longer than the training.
    assert done.stdout == "too large to be copied\ntoo large to be copied\n\n"


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


@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
@pytest.mark.parametrize("stopped", [False, True])
def test_fit__leaves_torch_as_it_was(solver: Literal["adam", "newton-cg"], stopped: bool) -> None:
    def stop(epoch: Epoch) -> None:
        if stopped:
            raise KeyboardInterrupt

    X, y = rows(30)
    before = torch.get_num_threads()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
            TorchLinear(solver, random_state=1).fit(X, y, on_epoch=stop)
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.rand(3), expected)
    finally:
        torch.set_num_threads(before)


def test_fit__seeds_differ() -> None:
    X, y = rows(30)
    first, second = (
        TorchLinear(epochs=1, batch_size=8, random_state=seed).fit(X, y).coef_ for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["adam", "newton-cg"])
def test_fit__cuda_equals_cpu(solver: Literal["adam", "newton-cg"]) -> None:
    X, y = rows(90)
    heads = [
        TorchLinear(solver, device=device, random_state=0).fit(X, y, (X, y)) for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(heads[0].predict_proba(X), heads[1].predict_proba(X), atol=1e-3)
