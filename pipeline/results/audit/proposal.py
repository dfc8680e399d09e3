"""``reports/audit-fixes.csv``: what could be done about findings, ready to be edited and applied.

Owns what is proposed. Decided is only what was found to be safe; the rest is for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.dataset.manifest import ImageRow
from pipeline.files import write_csv
from pipeline.params import SPLITS
from pipeline.results.audit.findings import Audit, LabelIssue, NearPair
from pipeline.results.audit.fixes import HEADER, spelled


@dataclass(frozen=True, slots=True)
class _Proposal:
    path: str
    label: str = ""
    action: str = ""
    why: str = ""


def write_proposal(path: Path, audit: Audit, images: Sequence[ImageRow]) -> None:
    """Write one line an image, in the order of the audit's tables.

    Parameters
    ----------
    path : Path
    audit : Audit
    images : sequence of ImageRow
        What was audited.
    """
    label = {image.path: image.label for image in images}
    lines: dict[str, _Proposal] = {}
    for line in _proposals(audit):
        before = lines.get(line.path)
        if before is not None:
            line = replace(
                before,
                label=before.label or line.label,
                action=before.action or line.action,
                why=f"{before.why}; {line.why}",
            )
        lines[line.path] = line
    write_csv(
        path,
        HEADER,
        (
            (
                spelled(line.path),
                spelled(line.label),
                line.action,
                spelled(label[line.path]),
                spelled(line.why),
            )
            for line in lines.values()
        ),
    )


def _proposals(audit: Audit) -> Iterator[_Proposal]:
    for pair in audit.near:
        if pair.leak:
            yield _of_leak(pair)
    if audit.labels is not None:
        for issue in audit.labels.issues:
            yield _of_label(issue)
    for name in ("outliers", "dark", "blurred", "tiny"):
        for oddity in getattr(audit, name):
            yield _Proposal(oddity.path, why=name.removesuffix("s"))


def _of_leak(pair: NearPair) -> _Proposal:
    """Take the image out of the training split, or of val: the scores on what is left then hold."""
    first, second = sorted(
        (SPLITS.index(split), path) for split, path in zip(pair.splits, pair.paths, strict=True)
    )
    return _Proposal(
        first[1], action="exclude", why=f"like {second[1]} in {SPLITS[second[0]]} ({pair.similarity:.2f})"
    )


def _of_label(issue: LabelIssue) -> _Proposal:
    """Decide where confident learning does, but never about the test split."""
    decided = issue.confident and issue.split != "test"
    return _Proposal(
        issue.path,
        issue.suggested,
        "relabel" if decided else "",
        f"label quality {issue.quality:.2f} in {issue.split}",
    )
