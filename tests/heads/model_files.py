"""Files of models, to be changed behind their backs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.heads.conftest import features_like_vgg
from tests.heads.test_model import CODES

X = features_like_vgg(CODES, seed=2)[:, :100]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.json"
    stored = json.loads(path.read_bytes())
    change(stored)
    path.write_text(json.dumps(stored))


def described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
