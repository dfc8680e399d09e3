"""From a source of images to ``data/manifest.csv``: the story of the first stage.

Owns the order of the steps. The images stay where they are, unopened if nothing about them
has changed; the manifest is replaced in one step, or not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from pipeline.dataset import fitness
from pipeline.dataset.corrections import EXCLUDED_REASON, Corrections, read_corrections
from pipeline.dataset.looks import Examine, Looks
from pipeline.dataset.manifest import ImageRow, Status, read_manifest, write_manifest
from pipeline.dataset.sampling import sample
from pipeline.dataset.sources import open_source
from pipeline.dataset.sources.walk import Candidate
from pipeline.dataset.splits import assign
from pipeline.errors import ManifestError, ParamsError
from pipeline.params import SPLITS, DatasetParams, Split, read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and did.

    Attributes
    ----------
    counts : dict
        Label to split to number of usable images; every split is there.
    quarantined, conflicts : tuple of ImageRow
        Images left out, with the reason: undecodable, or with the same bytes under two labels.
    excluded : tuple of ImageRow
        Images left out by a correction.
    duplicates : int
        Usable images whose bytes are those of another one.
    ignored : int
        Files of the source that are no images by name.
    added, removed, moved : int
        Files that are new in the manifest, gone from it, or there under another path.
    replaced, relabelled : int
        Files of other bytes under their old path; those of another label, moved ones included.
    changed : bool
        Whether the manifest's file changed.
    """

    counts: dict[str, dict[Split, int]]
    quarantined: tuple[ImageRow, ...]
    conflicts: tuple[ImageRow, ...]
    excluded: tuple[ImageRow, ...]
    duplicates: int
    ignored: int
    added: int
    removed: int
    moved: int
    replaced: int
    relabelled: int
    changed: bool

    @property
    def usable(self) -> int:
        """How many images can be used."""
        return sum(sum(splits.values()) for splits in self.counts.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Reason code to number of quarantined images, the most frequent first."""
        return dict(Counter(row.reason for row in self.quarantined).most_common())


def prepare(
    workspace: Workspace, *, resplit: bool = False, rehash: bool = False, examine: Examine | None = None
) -> PrepareReport:
    """List, examine and split the images of ``dataset.source``, and write the manifest.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` says which images, how many, and how they are split; its corrections, what the
        source has wrong.
    resplit : bool, default False
        Split anew. Otherwise images keep the split that the previous manifest gave them.
    rehash : bool, default False
        Read every file, and trust no size, time and inode.
    examine : callable
        Looks into files; by default in processes of this machine.

    Raises
    ------
    SourceMissing, SourceError
        The images are not there, or nothing can be learned from them.
    ManifestError
        The previous manifest is malformed, and with it the split lost; or the corrections are.
    ParamsError
        ``params.yaml`` is wrong, or its limit too small for the classes.
    """
    params = read_params(workspace.params_file).dataset
    before = _previous_rows(workspace, resplit)
    corrections = read_corrections(workspace.corrections_file)
    if not params.source:
        raise ParamsError(
            f"{workspace.params_file}: dataset.source is missing. Name a folder or archive of images, "
            f"`digits` or `cats-dogs`: `pipeline prepare --source …` writes it there."
        )
    source = open_source(params.source, workspace)
    looks = Looks(source.candidates, workspace.image_stat_cache, rehash=rehash, examine=examine)
    looks.look(source.candidates, decode=params.limit is None)
    hashes = {candidate.path: looks[candidate].sha256 for candidate in source.candidates}
    corrections.tell(source.candidates, hashes, workspace.corrections_file)
    candidates = corrections.relabelled(source.candidates, hashes)
    chosen = _examined(candidates, looks, corrections, params.limit)
    rows = _rows(chosen, looks, corrections)
    fitness.check_images(rows, params.source)
    rows = _with_splits(rows, () if resplit else before, params)
    changed = write_manifest(workspace.manifest_file, rows)
    looks.save()
    return _report(rows, before, source.ignored, changed)


def _previous_rows(workspace: Workspace, resplit: bool) -> tuple[ImageRow, ...]:
    try:
        return read_manifest(workspace.manifest_file).rows
    except ManifestError:
        if resplit or not workspace.manifest_file.exists():
            return ()
        raise  # writing it anew would move images between splits unasked


def _examined(
    candidates: Sequence[Candidate], looks: Looks, corrections: Corrections, limit: int | None
) -> list[Candidate]:
    """Look into as many files as it takes; return the candidates that belong in the manifest."""
    if limit is None:
        return list(candidates)
    while True:  # each round replaces those of the sample that turned out not to be images
        out = _clashing(candidates, looks) | {
            looks[c].sha256 for c in candidates if corrections.excludes(looks[c].sha256)
        }
        good = [c for c in candidates if not looks[c].reason and looks[c].sha256 not in out]
        if good:
            fitness.check_limit(limit, len({candidate.label for candidate in good}))
        sampled = sample(((candidate, looks[candidate].sha256) for candidate in good), limit)
        wanted = sampled + [c for c in candidates if looks[c].sha256 in out]
        if all(looks[candidate].final for candidate in wanted):
            return sampled + [c for c in candidates if looks[c].reason or looks[c].sha256 in out]
        looks.look(wanted, decode=True)


def _clashing(candidates: Sequence[Candidate], looks: Looks) -> set[str]:
    """Return the hashes of images that stand under two labels."""
    label: dict[str, str] = {}
    return {
        looks[candidate].sha256
        for candidate in candidates
        if not looks[candidate].reason
        and label.setdefault(looks[candidate].sha256, candidate.label) != candidate.label
    }


def _rows(candidates: Sequence[Candidate], looks: Looks, corrections: Corrections) -> list[ImageRow]:
    """Return one row a candidate; usable ones have the source's own split, or none yet."""
    clashing = _clashing(candidates, looks)
    rows = []
    for candidate in candidates:
        verdict = looks[candidate]
        status: Status
        if verdict.reason:
            status, reason = "quarantined", verdict.reason
        elif corrections.excludes(verdict.sha256):
            status, reason = "excluded", EXCLUDED_REASON
        elif verdict.sha256 in clashing:
            status, reason = "conflict", "two_labels"
        else:
            status, reason = "ok", ""
        rows.append(
            ImageRow(
                path=candidate.path,
                label=candidate.label,
                split=candidate.split if status == "ok" else "",
                group=candidate.group,
                sha256=verdict.sha256,
                bytes=verdict.bytes,
                width=verdict.width,
                height=verdict.height,
                status=status,
                reason=reason,
            )
        )
    return rows


def _with_splits(
    rows: Sequence[ImageRow], before: Sequence[ImageRow], params: DatasetParams
) -> list[ImageRow]:
    """Give the usable rows their splits, and say what is odd about the result."""
    usable = [row for row in rows if row.status == "ok"]
    had = {
        row.sha256: split  # training overrides the others, for copies that stood in several
        for split in reversed(SPLITS)
        for row in before
        if row.split == split
    }
    splits = assign(usable, had, params.split, params.seed)
    placed = [replace(row, split=splits[row.path]) for row in usable]
    of_source = any(row.split for row in usable)
    fitness.check_splits(placed, params.split, params.source, of_source)
    if of_source:
        fitness.warn_of_leaks(placed)
    elif had and not any(row.group for row in usable):  # groups may be too large for the shares
        fitness.warn_of_old_shares(placed, params.split)
    return placed + [row for row in rows if row.status != "ok"]


def _report(
    rows: Sequence[ImageRow], before: Sequence[ImageRow], ignored: int, changed: bool
) -> PrepareReport:
    usable = [row for row in rows if row.status == "ok"]
    counts = {label: dict.fromkeys(SPLITS, 0) for label in sorted({row.label for row in usable})}
    for row in usable:
        counts[row.label][cast("Split", row.split)] += 1
    now, then = {row.path: row for row in rows}, {row.path: row for row in before}
    both = now.keys() & then.keys()
    moved = _moved([now[path] for path in now.keys() - both], [then[path] for path in then.keys() - both])
    return PrepareReport(
        counts=counts,
        quarantined=tuple(row for row in rows if row.status == "quarantined"),
        conflicts=tuple(row for row in rows if row.status == "conflict"),
        excluded=tuple(row for row in rows if row.status == "excluded"),
        duplicates=len(usable) - len({row.sha256 for row in usable}),
        ignored=ignored,
        added=len(now) - len(both) - len(moved),
        removed=len(then) - len(both) - len(moved),
        moved=len(moved),
        replaced=sum(now[path].sha256 != then[path].sha256 for path in both),
        relabelled=sum(now[path].label != then[path].label for path in both)
        + sum(new.label != old.label for new, old in moved),
        changed=changed,
    )


def _moved(new: Sequence[ImageRow], gone: Sequence[ImageRow]) -> list[tuple[ImageRow, ImageRow]]:
    """Pair new rows with those gone from another path, by content."""
    waiting: defaultdict[str, list[ImageRow]] = defaultdict(list)
    for row in gone:
        waiting[row.sha256].append(row)
    return [(row, waiting[row.sha256].pop()) for row in new if row.sha256 and waiting[row.sha256]]
