"""``pipeline audit``: label issues, duplicates, leaks and odd images, from the stored features.

Owns the order of the steps, and the two files that come of them. It changes no label and no image: that is
for people, with `pipeline.results.audit.fixes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.console import counted, printable, warn
from pipeline.dataset.corrections import Corrections, read_corrections
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources.source import source_root
from pipeline.files import write_json
from pipeline.heads.matrix import LabelledFeatures
from pipeline.params import SPLITS
from pipeline.results.audit import appearance
from pipeline.results.audit.duplicates import exact_copies, first_of_copies, near_duplicates, near_pairs
from pipeline.results.audit.findings import Audit
from pipeline.results.audit.labels import label_findings, require_cleanlab
from pipeline.results.audit.outliers import outliers
from pipeline.results.audit.predictions import POOLED
from pipeline.results.audit.proposal import write_proposal
from pipeline.workspace import Workspace


def audit(workspace: Workspace, *, include_test: bool = False, skip_labels: bool = False) -> Audit:
    """Look for what is wrong with the data, and write ``reports/audit.json`` and a proposal of fixes.

    Parameters
    ----------
    workspace : Workspace
        With features of every image.
    include_test : bool, default False
        Whether to doubt test labels too. What needs no labels looks at the test split in any case.
    skip_labels : bool, default False
        Whether to leave labels out, and with them the need for cleanlab.

    Returns
    -------
    Audit

    Raises
    ------
    ManifestError, MissingRows, IdentityMismatch
        There is no manifest, or not every image has features.
    HeadError
        There are too few images to compare their labels.
    PipelineError
        cleanlab is not installed.
    """
    if not skip_labels:
        require_cleanlab()
    features = LabelledFeatures.open(workspace)
    corrections = read_corrections(workspace.corrections_file)
    _warn_of_pending(features.manifest.rows, corrections, workspace)
    rows = features.matrix(*SPLITS, derivation=POOLED.fitting(features.identity.dimension))
    labels = None
    if not skip_labels:
        labels = label_findings(
            features, rows, corrections, workspace.factors_folder, include_test=include_test
        )
    first = first_of_copies(rows.images)
    images, X = [rows.images[place] for place in first], rows.X[first]
    copies = near_duplicates(X)
    found = appearance.looks(
        images, source_root(features.params.dataset.source, workspace), workspace.looks_file
    )
    unread = tuple(image.path for image, look in zip(images, found, strict=True) if look is None)
    if unread:
        warn(
            f"{counted(len(unread), 'image')} could not be looked at for light and blur, such as "
            f"{printable(unread[0])}: gone, or changed since `pipeline prepare`."
        )
    result = Audit(
        images=len(rows.images),
        labels=labels,
        exact=exact_copies(rows.images),
        near=near_pairs(images, copies),
        outliers=outliers(images, X, copies),
        tiny=appearance.tiny(images),
        dark=appearance.dark(images, found),
        blurred=appearance.blurred(images, found),
        unread=unread,
    )
    write_json(workspace.audit_file, result.as_dict())
    write_proposal(workspace.audit_fixes_file, result, rows.images)
    return result


def _warn_of_pending(images: Sequence[ImageRow], corrections: Corrections, workspace: Workspace) -> None:
    pending = sum(
        corrections.excludes(image.sha256) or corrections.label(image.sha256) not in (None, image.label)
        for image in images
        if image.status in ("ok", "conflict")
    )
    if pending:
        warn(
            f"{printable(str(workspace.corrections_file))}: "
            f"{counted(pending, 'image')} of the manifest not corrected yet. "
            f"`pipeline prepare`, or `dvc repro`, takes the corrections into the manifest."
        )
