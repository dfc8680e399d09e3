from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.errors import DeviceError
from pipeline.networks.torch_learner import Learner

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A network of a convolution and a layer, that runs out of memory with more than `most` images."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(2, 3, 3, padding=1)
        self.layer = torch.nn.Linear(3 * 16, 3)
        self.most, self.seen = most, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: torch.Tensor = self.layer(torch.relu(self.convolution(x)).flatten(1))
        return logits


def learner_of(network: Small, **how: Any) -> Learner:
    return Learner(network, torch.optim.AdamW(network.parameters(), lr=0.01), CPU, (2, 4, 4), **how)


def some_batches(count: int = 3, size: int = 7, dtype: Any = np.float32) -> list[tuple[Any, Any]]:
    generator = np.random.default_rng(0)
    return [
        (generator.normal(0, 1, (size, 32)).astype(dtype), generator.integers(0, 3, size))
        for _ in range(count)
    ]


def weights_of(network: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in network.parameters()]


def near(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("how", [{}, {"piece": 3}, {"piece": 1}])
def test_step__as_a_plain_torch_loop(how: dict[str, int]) -> None:
    expected = Small()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01)
    losses = []
    for x, y in some_batches():
        optimizer.zero_grad()
        loss = cross_entropy(expected(torch.from_numpy(x).view(-1, 2, 4, 4)), torch.from_numpy(y))
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    network = Small()
    learner = learner_of(network, **how)
    found = [learner.step(number, *batch)[0] for number, batch in enumerate(some_batches())]
    assert found == pytest.approx(losses, abs=1e-6)
    assert near(weights_of(network), weights_of(expected))


def test_step__half_precision_inputs_are_computed_in_float32() -> None:
    networks = Small(), Small()
    for network, dtype in zip(networks, (np.float16, np.float32), strict=True):
        learner = learner_of(network)
        for number, (x, y) in enumerate(some_batches(dtype=np.float16)):
            learner.step(number, x.astype(dtype), y)
    assert near(weights_of(networks[0]), weights_of(networks[1]), 0)


def test_step__schedule_scales_the_rate() -> None:
    network = Small()
    learner = learner_of(network, schedule=lambda step: float(step == 1))
    before = weights_of(network)
    learner.step(0, *some_batches()[0])
    assert near(weights_of(network), before, 0)
    learner.step(1, *some_batches()[0])
    assert not near(weights_of(network), before, 1e-4)


def test_step__a_loss_that_is_not_finite_is_not_learned_from() -> None:
    network = Small()
    learner = learner_of(network)
    before = weights_of(network)
    x, y = some_batches()[0]
    x[3, 5] = np.nan
    loss, _ = learner.step(0, x, y)
    assert np.isnan(loss)
    assert near(weights_of(network), before, 0)
    assert learner.is_finite()
    with torch.no_grad():
        network.layer.bias[0] = torch.inf
    assert not learner.is_finite()


def test_memory__halved_until_it_fits_and_learns_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    plenty, little = Small(), Small(most=2)
    for network in (plenty, little):
        learner = learner_of(network)
        for number, batch in enumerate(some_batches()):
            learner.step(number, *batch)
        network.scored = learner.score(iter(some_batches()))  # type: ignore[assignment]
    assert near(weights_of(little), weights_of(plenty))
    assert little.scored == pytest.approx(plenty.scored)
    assert little.seen[:2] == [7, 3]
    assert max(little.seen[2:]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "cpu ran out of memory with 7 images at once: going on with 3",
        "cpu ran out of memory with 3 images at once: going on with 1",
    ]


@pytest.mark.parametrize("work", [lambda a, b: a.step(0, *b), lambda a, b: a.score(iter([b]))])
def test_memory__none_for_a_single_image(work: Callable[..., Any]) -> None:
    learner = learner_of(Small(most=0))
    with pytest.raises(DeviceError, match="cpu ran out of memory with a single image: free some, unfreeze"):
        work(learner, some_batches()[0])


def test_memory__none_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(network: torch.nn.Module, device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Small, "to", no_memory)
    with pytest.raises(DeviceError, match="cpu has not the memory for the network"):
        learner_of(Small())


def test_score__means_over_all_images() -> None:
    network = Small()
    batches = [*some_batches(2), *some_batches(1, size=3)]
    loss, accuracy = learner_of(network, piece=2).score(iter(batches))
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = network(torch.from_numpy(x).view(-1, 2, 4, 4))
    assert loss == pytest.approx(cross_entropy(logits, torch.from_numpy(y)).item(), abs=1e-6)
    assert accuracy == pytest.approx((logits.argmax(1).numpy() == y).mean())


def test_state__restored_goes_on_to_the_last_bit() -> None:
    network, other = Small(), Small()
    learner = learner_of(network)
    learner.step(0, *some_batches()[0])
    state = learner.state()
    learner.step(1, *some_batches()[1])
    assert not torch.equal(state["network.layer.bias"], network.layer.bias)  # it is a copy
    restored = learner_of(other)
    restored.restore(state)
    restored.step(1, *some_batches()[1])
    assert near(weights_of(other), weights_of(network), 0)


@pytest.mark.gpu
def test_step__on_a_gpu_as_on_the_cpu_but_for_rounding() -> None:
    found = {}
    for device in ("cpu", "cuda"):
        network = Small()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        learner = Learner(network, optimizer, torch.device(device), (2, 4, 4))
        found[device] = [learner.step(number, *batch)[0] for number, batch in enumerate(some_batches())]
        other = learner_of(Small())
        other.restore(learner.state())
        assert near(weights_of(other.network), [value.cpu() for value in weights_of(network)], 0)
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.02)  # bfloat16


@pytest.mark.gpu
def test_memory__of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    batch = generator.normal(0, 1, (64, 3 * 224 * 224)).astype(np.float32), generator.integers(0, 3, 64)
    losses = []
    for most in (1.0, 2**29 / torch.cuda.mem_get_info()[1]):
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 3))
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        learner = Learner(network, optimizer, torch.device("cuda"), (3, 224, 224))
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(most)
        try:
            losses.append([learner.step(number, *batch)[0] for number in range(2)])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert "cuda ran out of memory with 64 images at once: going on with 32" in capsys.readouterr().err
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)
