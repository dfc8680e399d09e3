"""Fine-tuning and training in the network on a GPU: in mixed precision, the same but for rounding."""

from __future__ import annotations

import pytest

from pipeline.features.extractor import Execution
from pipeline.networks.finetune import finetune
from pipeline.networks.options import NetworkOptions
from pipeline.networks.train_network import train_network
from pipeline.results.evaluate import evaluate
from pipeline.workspace import Workspace
from tests.networks.conftest import QUICK
from tests.networks.test_finetune import history_of

pytestmark = pytest.mark.gpu
GPU, CPU = Execution(device="cuda"), Execution(device="cpu")


def test_finetune(tuned: Workspace) -> None:
    report = finetune(tuned, "linear", name="there", options=QUICK, execution=GPU)
    here, there = history_of(tuned, "linear-finetuned"), history_of(tuned, "there")
    assert there[0]["train_loss"] == pytest.approx(here[0]["train_loss"], rel=0.05)
    assert evaluate(tuned, "there", "val").accuracy == pytest.approx(report.metrics["accuracy"], abs=0.2)


def test_train_network(exact: Workspace) -> None:
    options = NetworkOptions(epochs=2, batch_size=8, augment=False)
    for name, execution in (("here", CPU), ("there", GPU)):
        train_network(exact, name=name, options=options, execution=execution)
    here, there = history_of(exact, "here"), history_of(exact, "there")
    assert [epoch["train_loss"] for epoch in there] == pytest.approx(
        [epoch["train_loss"] for epoch in here], rel=0.05
    )
