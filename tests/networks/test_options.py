from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import click
import pytest

from pipeline.commands import finetune, train_network
from pipeline.errors import ParamsError
from pipeline.networks.options import FinetuneOptions, NetworkOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("head_learning_rate", -1.0),
        ("weight_decay", -1e-9),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("patience", 0),
    ],
)
def test_options__out_of_range(name: str, value: float) -> None:
    change: dict[str, Any] = {name: value}
    with pytest.raises(ParamsError, match=f"--{name.replace('_', '-')}: expected a number .*, found"):
        FinetuneOptions(**change)


def test_options__lowest_values_are_taken() -> None:
    FinetuneOptions(epochs=1, batch_size=1, weight_decay=0.0, warmup=0.0, patience=1)
    with pytest.raises(ParamsError, match="--weight-decay: expected a number of at least 0, found -1"):
        NetworkOptions(weight_decay=-1)


@pytest.mark.parametrize(
    ("command", "options"), [(train_network.command, NetworkOptions), (finetune.command, FinetuneOptions)]
)
def test_options__the_command_line_says_the_same_defaults(command: click.Command, options: Any) -> None:
    said = {parameter.name: parameter.default for parameter in command.params}
    for field in fields(options):
        assert said[field.name] == field.default, field.name
