"""The state of a training that is not finished, on disk after every epoch.

Owns the file: tensors, and what was done so far, replaced in one step. It runs nothing that it reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import note, printable, warn
from pipeline.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

_ENTRY = "training"


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a training is kept.

    Attributes
    ----------
    file : Path
        It need not exist.
    settings : dict
        All that the result depends on, as JSON can hold it. A state of other settings is not gone on with.
    """

    file: Path
    settings: dict[str, Any]

    def write(self, tensors: Mapping[str, Tensor], done: Mapping[str, Any]) -> None:
        """Keep the tensors and what was `done`, in the place of what was kept before."""
        from safetensors.torch import save_file

        about = json.dumps({"settings": self.settings, "done": done})
        with replacing(self.file) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {_ENTRY: about}
            )

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what was kept; None, and a line that says why, where there is nothing to go on with."""
        from safetensors import SafetensorError, safe_open

        shown = printable(str(self.file))
        try:
            with safe_open(self.file, "pt") as content:
                about = json.loads(content.metadata()[_ENTRY])
                if about["settings"] != self.settings:
                    note(f"{shown} is of a training with other settings or images: starting anew")
                    return None
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                return tensors, about["done"]
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warn(f"{shown}: damaged ({printable(str(error))}), so the training starts anew")
            return None
