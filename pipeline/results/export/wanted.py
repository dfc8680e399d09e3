"""Which files `pipeline export` is to make of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """Which files are wanted.

    Attributes
    ----------
    onnx : Path or None
        The whole classifier as ONNX.
    with_preprocessing : bool
        Whether that takes decoded images of any size, and resizes, crops and normalises them itself.
    state_dict : Path or None
        The state of torchvision's network with a new last layer: ``.safetensors``, or else by ``torch.save``.
    torch_export : Path or None
        The whole classifier as a program of ``torch.export``.
    """

    onnx: Path | None = None
    with_preprocessing: bool = False
    state_dict: Path | None = None
    torch_export: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All that are wanted."""
        return [file for file in (self.onnx, self.state_dict, self.torch_export) if file is not None]
