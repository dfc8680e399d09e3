from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.networks.checkpoint import Checkpoint

SETTINGS = {"epochs": 3, "rows": ["ab", "cd"], "rate": 1e-5}
TENSORS = {"now.a": torch.arange(6.0).view(2, 3), "best.a": torch.zeros(2)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "run" / "checkpoint.safetensors", SETTINGS)


def test_checkpoint__what_is_written_is_read(checkpoint: Checkpoint) -> None:
    assert checkpoint.read() is None
    checkpoint.write(TENSORS, {"epoch": 2})
    checkpoint.write(TENSORS | {"now.a": TENSORS["now.a"].T}, {"epoch": 3})
    found = checkpoint.read()
    assert found is not None
    tensors, done = found
    assert done == {"epoch": 3}
    assert tensors.keys() == TENSORS.keys()
    assert torch.equal(tensors["now.a"], TENSORS["now.a"].T)


def test_checkpoint__of_other_settings(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.write(TENSORS, {"epoch": 2})
    assert Checkpoint(checkpoint.file, SETTINGS | {"epochs": 4}).read() is None
    assert "is of a training with other settings or images: starting anew" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "nothing", "text", "other"])
def test_checkpoint__damaged(checkpoint: Checkpoint, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.write(TENSORS, {"epoch": 2})
    data = checkpoint.file.read_bytes()
    if damage == "other":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(1)}, checkpoint.file, {"training": "{}"})
    else:
        checkpoint.file.write_bytes({"cut": data[:-1], "nothing": b"", "text": b"{}" * 40}[damage])
    assert checkpoint.read() is None
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert "damaged (" in said
    assert said.count("\n") == 1


def test_checkpoint__a_write_that_fails_leaves_the_former(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(TENSORS, {"epoch": 2})

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(TENSORS, {"epoch": 3})
    found = checkpoint.read()
    assert found is not None
    assert found[1] == {"epoch": 2}
    assert [path.name for path in checkpoint.file.parent.iterdir()] == ["checkpoint.safetensors"]
