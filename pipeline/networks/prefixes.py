"""What the frozen part of a network makes of images: computed once, stored, and gone on from.

Owns the stores under ``cache/prefixes/``, one for each place to cut, and the way from their rows to the
features of a network that was fine-tuned from there. It trains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pipeline.console import printable, progress, warn
from pipeline.dataset.manifest import ImageRow, Manifest
from pipeline.errors import DamagedShard, StoreError
from pipeline.features.extract import missing_rows
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import Identity
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import SHARD_ROWS, Features, FeatureStore, RowKey
from pipeline.features.weights import Weights
from pipeline.networks.blocks import Cut
from pipeline.networks.stores import fill, opened
from pipeline.times import count_rows
from pipeline.workspace import Workspace


def prefix_identity(identity: Identity, cut: Cut) -> Identity:
    """Return the identity of what goes in at a cut, where `identity` is that of the features."""
    return replace(identity, layer=cut.layer, dimension=cut.dimension(identity.image_size))


def frozen_extractor(
    extraction: Extraction, cut: Cut, execution: Execution, storage: Literal["float16", "float32"]
) -> Extractor:
    """Set up the part before a cut; its rows are of the type `storage`.

    Raises
    ------
    WeightsError, DeviceError
        It cannot be set up.
    """
    from pipeline.features.torch_backbone import choose_device
    from pipeline.networks.torch_parts import frozen_part

    params = replace(extraction.params, storage=storage)
    precision = params.precision if cut.has_prefix else "float32"
    device, dimension = choose_device(execution.device), cut.dimension(params.image_size)
    part = frozen_part(extraction.weights, cut, precision, device, dimension)
    return Extractor(params, extraction.weights, execution, backbone=part)


def filled_prefix(
    workspace: Workspace, extraction: Extraction, cut: Cut, images: Sequence[ImageRow], execution: Execution
) -> FeatureStore:
    """Store what goes in at a cut for images, where that is still to be done.

    Raises
    ------
    SourceMissing, SourceError, StoreLocked
        See `fill`.
    WeightsError, DeviceError
        The frozen part cannot be set up.
    """
    identity = prefix_identity(extraction.identity, cut)
    store = opened(workspace.prefixes_folder / cut.layer, identity)
    started = time.perf_counter()
    made = fill(
        store,
        images,
        extraction.root,
        lambda: frozen_extractor(extraction, cut, execution, extraction.params.storage),
        "prefix",
    )
    if made:
        count_rows(workspace, identity.as_dict(), made, round(time.perf_counter() - started, 2))
    return store


def go_on(
    workspace: Workspace,
    cut: Cut,
    prefix: Identity,
    weights: Weights,
    execution: Execution,
    images: Sequence[ImageRow],
    store: FeatureStore,
) -> None:
    """Compute the features of images by the blocks from a cut on, where what goes in there is stored.

    Parameters
    ----------
    workspace : Workspace
    cut : Cut
    prefix : Identity
        Of what goes in.
    weights : Weights
        Of the network that was fine-tuned from the cut on.
    execution : Execution
    images : sequence of ImageRow
        Those whose features are missing are looked for.
    store : FeatureStore
        Of the features.

    Raises
    ------
    StoreLocked
        Another process is writing the store.
    WeightsError, DeviceError
        The blocks cannot be set up.
    """
    try:
        stored = FeatureStore.open(workspace.prefixes_folder / cut.layer, prefix)
    except StoreError:  # none, or of another extractor
        return
    keys = [RowKey(image.sha256) for image, _ in missing_rows(Manifest(tuple(images)), store)]
    keys = [key for key, there in zip(keys, stored.holds(keys).tolist(), strict=True) if there]
    if not keys:
        return
    from pipeline.features.torch_backbone import choose_device
    from pipeline.networks.torch_parts import Tail

    tail = Tail(weights, cut, store.identity.image_size, choose_device(execution.device))
    block: Features = np.empty((min(len(keys), SHARD_ROWS), prefix.dimension), prefix.storage)
    with (
        store.writing(),
        progress(f"from {cut.layer}", len(keys)) as advance,
        ShardWriter(store, tail.made_with) as writer,
    ):
        try:
            for places, rows in stored.blocks(keys, block):
                features = tail(rows).astype(store.identity.storage, copy=False)
                writer.add([keys[place] for place in places], features)
                advance(len(places))
        except DamagedShard as error:
            warn(f"{printable(str(error))} The images themselves are looked at.")
