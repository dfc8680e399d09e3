"""What a workspace has stored."""

from __future__ import annotations

import json

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace


def usable(workspace: Workspace) -> tuple[ImageRow, ...]:
    return read_manifest(workspace.manifest_file).usable


def stored_hashes(workspace: Workspace) -> set[str]:
    identity = Identity.from_dict(json.loads(workspace.index_file.read_bytes())["identity"])
    keys = FeatureStore.open(workspace.store_folder, identity).keys()
    return {key.sha256 for key in keys}
