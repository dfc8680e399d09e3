"""An index of a manifest, for stores whose rows no extractor has computed."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.dataset.manifest import Manifest
from pipeline.features.identity import Identity
from pipeline.features.index import Index, digest_of_keys, record, row_keys
from pipeline.views import CENTER
from pipeline.workspace import Workspace


def write_index(
    workspace: Workspace,
    identity: Identity,
    weights: str,
    manifest: Manifest,
    views: Sequence[str] = (CENTER,),
) -> bool:
    """Record that the store holds `views` of all of `manifest`; return whether that is news."""
    digest = digest_of_keys(row_keys(manifest, views))
    return record(workspace, Index(identity, weights, len(manifest.usable), digest, tuple(views)))
