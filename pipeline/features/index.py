"""``cache/index.json``: proof that the store holds the features of the manifest.

Tiny, deterministic and committed: the identity, the views where there are several, and a digest
of the manifest's row keys in their order. Training depends on it and not on the shards, so a
store made again with other shard sizes retrains nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.dataset.manifest import Manifest
from pipeline.errors import IdentityMismatch, MissingRows, StoreError
from pipeline.features.identity import DECODING, Identity
from pipeline.features.store import RowKey
from pipeline.files import write_json
from pipeline.params import Params
from pipeline.views import CENTER
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Index:
    """What the store holds for a manifest.

    Attributes
    ----------
    identity : Identity
        Of the extractor.
    weights : str
        Name of the weights in ``params.yaml`` when the features were made.
    rows : int
        Usable images of the manifest.
    keys_sha256 : str
        Digest of the row keys of their views, in manifest order.
    views : tuple of str
        What is stored of each image.
    """

    identity: Identity
    weights: str
    rows: int
    keys_sha256: str
    views: tuple[str, ...]


def row_keys(manifest: Manifest, views: Sequence[str] = (CENTER,)) -> list[RowKey]:
    """Row keys of the usable images, in manifest order, view after view; copies of one image share keys."""
    return [RowKey(row.sha256, view) for row in manifest.usable for view in views]


def digest_of_keys(keys: Sequence[RowKey]) -> str:
    """Hash row keys in their order."""
    return hashlib.sha256("".join(f"{key.sha256} {key.view}\n" for key in keys).encode()).hexdigest()


def record(workspace: Workspace, index: Index) -> bool:
    """Write an index; return whether that is news."""
    values = {
        "identity": index.identity.as_dict(),
        "keys_sha256": index.keys_sha256,
        "rows": index.rows,
        "weights": index.weights,
    }
    if index.views != (CENTER,):  # otherwise the index stays what it was before there were views
        values["views"] = list(index.views)
    return write_json(workspace.index_file, values)


def current_index(workspace: Workspace, params: Params, manifest: Manifest) -> Index:
    """Read the index, and refuse one that is not of this manifest and these parameters.

    Raises
    ------
    MissingRows
        There is none, or the manifest has changed since.
    IdentityMismatch
        ``params.yaml`` asks for another extractor than the one that ran.
    StoreError
        The file is not an index.
    """
    path, remedy = workspace.index_file, "Run `pipeline extract`."
    try:
        stored = json.loads(path.read_bytes())
        views = tuple(map(str, stored.pop("views", [CENTER])))
        index = Index(Identity.from_dict(stored.pop("identity")), **stored, views=views)
    except FileNotFoundError:
        raise MissingRows(f"{path}: no features yet. {remedy}") from None
    except (ValueError, TypeError, KeyError, AttributeError, StoreError) as error:
        raise StoreError(f"{path}: not an index ({error}). {remedy}") from None
    asked = params.extract
    if index.views != asked.views:
        raise MissingRows(
            f"{path} is of the views {', '.join(index.views)}, and extract.views in "
            f"{workspace.params_file} names {', '.join(asked.views)}. {remedy}"
        )
    if index.keys_sha256 != digest_of_keys(row_keys(manifest, asked.views)):
        raise MissingRows(f"{path} is not of the images now in {workspace.manifest_file}. {remedy}")
    pairs = {
        "backbone": (index.identity.backbone, asked.backbone),
        "weights": (index.weights, asked.weights),
        "precision": (index.identity.precision, asked.precision),
        "resize": (index.identity.resize, asked.resize),
        "image_size": (index.identity.image_size, asked.image_size),
        "storage": (index.identity.storage, asked.storage),
        "decoding": (index.identity.decoding, DECODING[asked.decoder]),
    }
    differences = [f"{name} {had} against {wants}" for name, (had, wants) in pairs.items() if had != wants]
    if differences:
        raise IdentityMismatch(
            f"{path} and {workspace.params_file} differ: {'; '.join(differences)}. "
            f"Change params.yaml back, or run `pipeline extract --fresh`, which replaces these features."
        )
    return index
