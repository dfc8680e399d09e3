"""Taking rows in from another feature store.

The other store is only read, and trusted in nothing: its identity must be the one that is here, or
that is asked for here, every byte that is copied is hashed, and links and special files are left alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.console import printable, progress
from pipeline.errors import DamagedShard, MissingRows, StoreError
from pipeline.features.description import is_store
from pipeline.features.identity import Identity, identity_of
from pipeline.features.lock import locked
from pipeline.features.quantised import QUANTISED, REMEDY, quantised_digest
from pipeline.features.store import FeatureStore, RowKey
from pipeline.features.weights import resolve_weights
from pipeline.files import write_atomically
from pipeline.params import read_params
from pipeline.workspace import Workspace


@dataclass
class ImportReport:
    """What was taken in.

    Attributes
    ----------
    shards, rows : int
        Copied, and the new rows in them.
    skipped : int
        Shards that held nothing new.
    rejected : dict of str to str
        What is wrong, by the name of the file.
    """

    shards: int = 0
    rows: int = 0
    skipped: int = 0
    rejected: dict[str, str] = field(default_factory=dict)


def take_in(workspace: Workspace, folder: Path) -> ImportReport:
    """Copy the shards of another store that hold rows which this one lacks.

    Parameters
    ----------
    workspace : Workspace
        Its store takes them in; it is made where there is none.
    folder : Path
        A folder of shards, or the workspace that has one, or its ``cache``. It is only read.

    Raises
    ------
    MissingRows
        `folder` is neither.
    IdentityMismatch
        The two were made by different extractors; or there is no store yet, and ``params.yaml`` asks for
        another one than the source's.
    ParamsError, WeightsError
        What ``params.yaml`` asks for cannot be told.
    StoreError
        `folder` is this store, or lacks the network that its features were made with.
    StoreLocked
        Another process is writing this store.
    """
    source = FeatureStore.open(_store_folder(folder))
    if is_store(workspace.store_folder):
        store = FeatureStore.open(workspace.store_folder)
        if store.folder.samefile(source.folder):
            raise StoreError(f"{printable(str(folder))}: this is the store itself. Name another one.")
        store.identity.require(
            source.identity,
            f"the features in {store.folder}",
            f"those in {source.folder}",
            "Only features of the same extractor can stand side by side: nothing was taken in.",
        )
    else:
        _asked(workspace, source.identity).require(
            source.identity,
            f"what {workspace.params_file} asks for",
            f"the features in {source.folder}",
            "Change params.yaml, or name a store of that extractor: nothing was taken in.",
        )
        if source.identity.quantised_sha256:
            _take_network_in(workspace.quantised_file, source)
        store = FeatureStore.create(workspace.store_folder, source.identity)
    report = ImportReport()
    shards = source.shards()
    with store.writing(), progress("import", len(shards), "shards") as advance:
        stored = store.keys()
        for path in shards:
            if path.is_symlink() or not path.is_file():
                fault: str | None = "not a regular file"
            else:
                fault = _take_in(store, stored, path, report)
            if fault:
                report.rejected[path.name] = fault
            advance(1)
    return report


def _asked(workspace: Workspace, source: Identity) -> Identity:
    """Return what ``params.yaml`` asks for; a network of precision ``int8`` is taken from the source."""
    params = read_params(workspace.params_file).extract
    weights = resolve_weights(params.weights, workspace.root, params.backbone)
    asked = identity_of(replace(params, precision="half"), weights)
    quantised = source.quantised_sha256 if params.precision == "int8" else ""
    return replace(asked, precision=params.precision, quantised_sha256=quantised)


def _take_network_in(file: Path, source: FeatureStore) -> None:
    """Copy the network of precision ``int8``, without which nothing could be added to these features."""
    network = source.folder / QUANTISED
    if network.is_symlink() or quantised_digest(network) != source.identity.quantised_sha256:
        raise StoreError(
            f"{printable(str(network))} is not the network that these features were made with. {REMEDY}"
        )
    with locked(file.parent):
        write_atomically(file, network.read_bytes())


def _take_in(store: FeatureStore, stored: set[RowKey], path: Path, report: ImportReport) -> str | None:
    """Copy a shard if it holds a row that is not `stored`; return what is wrong with it."""
    try:
        new = set(store.format.contents(path).keys) - stored
    except DamagedShard:
        return store.format.fault(path)
    if not new:
        report.skipped += 1
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.stem:
        return "damaged: its bytes do not hash to its name"
    write_atomically(store.folder / path.name, data)
    stored |= new
    report.shards += 1
    report.rows += len(new)
    return None


def _store_folder(folder: Path) -> Path:
    for inside in (folder, folder / "features", folder / "cache" / "features"):
        if is_store(inside):
            return inside
    raise MissingRows(
        f"{printable(str(folder))}: not a feature store. Expected a folder with store.json and shards, "
        f"as cache/features is, or a workspace that has one."
    )
