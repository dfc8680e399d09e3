"""``pipeline show``: images side by side, with their labels, or with what a head took them for.

Owns the choice of the images and what is written below them. Of test images it shows pictures and labels,
and only where these are asked for by name; mistakes are those of heads that had not learned from the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

from pipeline.console import counted, printable
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.dataset.sources.source import source_root
from pipeline.errors import ManifestError
from pipeline.files import write_atomically
from pipeline.heads.matrix import LabelledFeatures
from pipeline.params import Split, did_you_mean, read_params
from pipeline.results.pictures import pictures
from pipeline.results.report.answers import Answers, current_model, held_out_answers
from pipeline.results.tiles import SIDE, Tile, drawn
from pipeline.workspace import Workspace

#: What is shown where no split is asked for.
LEARNED: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class ContactSheet:
    """What was drawn.

    Attributes
    ----------
    path : Path
        The file.
    title : str
        What stands above the images: which these are.
    """

    path: Path
    title: str


@dataclass(frozen=True)
class _Captioned:
    """An image with what is written below it; see `Tile`."""

    image: ImageRow
    labels: tuple[str, ...]
    name: str


def contact_sheet(
    workspace: Workspace,
    *,
    count: int = 24,
    split: Split | None = None,
    labels: Sequence[str] = (),
    errors: str | None = None,
    output: Path | None = None,
    trust: bool = False,
) -> ContactSheet:
    """Draw images with captions as a PNG.

    Parameters
    ----------
    workspace : Workspace
        With a manifest; for `errors` also with features and that model.
    count : int, default 24
        At most so many images: the first of each class in turn, or the surest mistakes.
    split : {"train", "val", "test"}, optional
        Of this split only; by default of train and val. With `errors` not test.
    labels : sequence of str, optional
        Of these classes only; by default of all.
    errors : str, optional
        Name of a model, whose mistakes are to be shown: of heads made like it, each on images that it had
        not learned from.
    output : Path, optional
        Where to write; by default ``reports/contact-sheet.png``.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    ContactSheet
        The same workspace gives the same bytes.

    Raises
    ------
    ManifestError
        There is no manifest, no such class, or no image to show.
    MissingRows, IdentityMismatch, ModelError, HeadError
        For `errors`, see `pipeline.results.report.report.report`.
    """
    if errors is not None and split == "test":
        raise ValueError("mistakes on test images are not shown")
    params = read_params(workspace.params_file)
    manifest = read_manifest(workspace.manifest_file)
    _require_classes(labels, manifest, workspace)
    splits = (split,) if split else LEARNED
    wanted = [row for row in manifest.usable if row.split in splits and (not labels or row.label in labels)]
    of = f"of {' and '.join(splits)}" + (f", {', '.join(labels)}" if labels else "")
    if not wanted:
        raise ManifestError(
            f"{workspace.manifest_file}: no image {printable(of)}. `pipeline prepare` lists what there is."
        )
    if errors is None:
        chosen = [_Captioned(row, (row.label,), row.path) for row in islice(_in_turn(wanted), count)]
        title = f"{_first(len(chosen), len(wanted), 'image')} {of}"
    else:
        answers = _answers(workspace, errors, trust=trust)
        paths = {row.path for row in wanted}
        asked = sum(image.path in paths for image in answers.images)
        mistakes = [place for place in answers.mistakes if answers.images[place].path in paths]
        chosen = [_mistake(answers, place) for place in mistakes[:count]]
        judged = "out of fold" if answers.out_of_fold else "on val"
        title = (
            f"{errors}, {judged}: {_first(len(chosen), len(mistakes), 'mistake', 'surest')} "
            f"on {counted(asked, 'image')} {of}"
        )
    root = source_root(params.dataset.source, workspace)
    seen = pictures([each.image for each in chosen], root, params.extract, SIDE)
    path = output or workspace.report_file.with_name("contact-sheet.png")
    tiles = [Tile(seen[each.image.sha256], each.labels, each.name) for each in chosen]
    write_atomically(path, drawn(title, tiles))
    return ContactSheet(path, title)


def _require_classes(labels: Iterable[str], manifest: Manifest, workspace: Workspace) -> None:
    for label in labels:
        if label not in manifest.classes:
            raise ManifestError(
                f"--label {printable(label)}: {workspace.manifest_file} has no such class. It has "
                f"{', '.join(map(printable, manifest.classes))}.{did_you_mean(label, manifest.classes)}"
            )


def _in_turn(rows: Iterable[ImageRow]) -> Iterable[ImageRow]:
    """Return the first row of each class, then the second of each, and so on."""
    of_class: dict[str, list[ImageRow]] = {}
    for row in rows:
        of_class.setdefault(row.label, []).append(row)
    turns = zip_longest(*(of_class[label] for label in sorted(of_class)))
    return (row for row in chain.from_iterable(turns) if row is not None)


def _answers(workspace: Workspace, head: str, *, trust: bool) -> Answers:
    features = LabelledFeatures.open(workspace)
    model, features = current_model(workspace, features, head, trust=trust)
    answers, _ = held_out_answers(model, features, trust=trust)
    return answers


def _mistake(answers: Answers, place: int) -> _Captioned:
    image = answers.images[place]
    given = answers.predictions.classes[answers.predictions.codes[place]]
    certainty = answers.said_certainty(place)
    taken_for = f"-> {given}" + (f", {certainty}" if certainty else "")
    return _Captioned(image, (image.label, taken_for), f"{image.path} ({image.split})")


def _first(shown: int, there: int, what: str, which: str = "first") -> str:
    if shown == there:
        return counted(there, what) if there else f"no {what}"
    return f"the {which} {shown} of {counted(there, what)}"
