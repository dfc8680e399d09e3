"""Photographs in a workspace of their own, drawn into splits anew for each seed.

The photographs are linked to, not copied, and never changed; what is stored of one is found again in every
draw.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace


@contextlib.contextmanager
def workspace_of(photos: Path, keep: Path | None, params: Mapping[str, Any]) -> Iterator[Workspace]:
    """Make a workspace, or go on with the one that was kept.

    Parameters
    ----------
    photos : Path
        One folder a class.
    keep : Path or None
        Where it stays for another run; it is temporary by default.
    params : mapping
        Parameters besides the source.
    """
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "photos").exists():
            # a folder of the same file system, as hard links want it
            shutil.copytree(photos, folder / "photos", copy_function=_linked)
        if not (folder / "workspace").exists():
            create_workspace(folder / "workspace", str(folder / "photos"))
        workspace = Workspace(folder / "workspace")
        write_params(workspace.params_file, {"dataset.limit": None, **params})
        yield workspace


def draw(workspace: Workspace, each: Mapping[str, int | None], seed: int) -> None:
    """Draw so many images of each class into each split, in this order; None stands for all others."""
    photos = workspace.root.parent / "photos"
    generator = np.random.default_rng(seed)
    rows = []
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = [file.name for file in sorted(folder.iterdir())]
        order = iter([files[place] for place in generator.permutation(len(files))])
        for split, count in each.items():
            names = list(order) if count is None else [next(order) for _ in range(count)]
            rows += [(f"{folder.name}/{name}", folder.name, split) for name in names]
    with (photos / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    prepare(workspace, resplit=True)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
