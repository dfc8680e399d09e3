"""What an audit can find, as values: for a table, for ``reports/audit.json`` and for the report.

Owns their meanings. Nothing is found here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """An image whose label the other images do not bear out.

    Attributes
    ----------
    path, split, label : str
        As in the manifest.
    suggested : str
        The label that is most probable instead.
    quality : float
        From 0, certainly wrong, over 0.5, either of two labels, to 1.
    confident : bool
        Whether it would be an error by the measure of its class, too (confident learning).
    """

    path: str
    split: str
    label: str
    suggested: str
    quality: float
    confident: bool


@dataclass(frozen=True, slots=True)
class LabelsOfTest:
    """What becomes of the accuracy on the test split if its labels are doubted; the two belong together.

    Attributes
    ----------
    rows : int
        Test images.
    accuracy_as_labelled : float
        Of a classifier that has learned from train and val alone.
    accuracy_as_suggested : float
        The same with the labels that are listed taken as suggested: flattering, for it was this classifier
        that suggested them.
    """

    rows: int
    accuracy_as_labelled: float
    accuracy_as_suggested: float


@dataclass(frozen=True, slots=True)
class LabelFindings:
    """What is known of labels.

    Attributes
    ----------
    rows : int
        Images of train and val whose labels were compared with those of the others.
    not_compared : int
        Those that no fold could hold out, such as the only one of a class.
    reviewed : int
        Images that are not listed because a correction gives their label.
    accuracy : float
        Of the predictions that labels were compared with, out of fold; by the labels as they are.
    estimated : int
        How many labels of `rows` are wrong, by the confident joint; issues of `test` not counted.
    issues : tuple of LabelIssue
        The worst first.
    test : LabelsOfTest or None
        None unless test labels were looked at.
    """

    rows: int
    not_compared: int
    reviewed: int
    accuracy: float
    estimated: int
    issues: tuple[LabelIssue, ...]
    test: LabelsOfTest | None


@dataclass(frozen=True, slots=True)
class ExactCopies:
    """Files of the same bytes.

    Attributes
    ----------
    paths, splits : tuple of str
        Of each file, as in the manifest.
    """

    paths: tuple[str, ...]
    splits: tuple[str, ...]

    @property
    def leak(self) -> bool:
        """Whether they lie in several splits."""
        return len(set(self.splits)) > 1


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two images that are very probably one: compressed again, resized or mirrored.

    Attributes
    ----------
    paths, splits : tuple of two str
        As in the manifest; of exact copies, one stands for all.
    similarity : float
        Up to 1.
    """

    paths: tuple[str, str]
    splits: tuple[str, str]
    similarity: float

    @property
    def leak(self) -> bool:
        """Whether they lie in two splits."""
        return self.splits[0] != self.splits[1]


@dataclass(frozen=True, slots=True)
class Oddity:
    """An image that is unlike the others.

    Attributes
    ----------
    path, split : str
        As in the manifest.
    value : float
        Of what makes it so.
    """

    path: str
    split: str
    value: float


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was found.

    Attributes
    ----------
    images : int
        That were looked at: the usable rows of the manifest.
    labels : LabelFindings or None
        None where labels were left out.
    exact : tuple of ExactCopies
        Leaks first.
    near : tuple of NearPair
        Leaks first, then the most similar.
    outliers : tuple of Oddity
        Images like no class; by their distance from others, in robust standard deviations.
    tiny : tuple of Oddity
        By the pixels of the shorter side.
    dark : tuple of Oddity
        By the level, of 255, that 95 % of the pixels do not exceed.
    blurred : tuple of Oddity
        By the variance of the Laplacian, as a share of the variance of the levels.
    unread : tuple of str
        Images whose pixels could not be looked at: files that are gone, or are not those of the manifest.
    """

    images: int
    labels: LabelFindings | None
    exact: tuple[ExactCopies, ...]
    near: tuple[NearPair, ...]
    outliers: tuple[Oddity, ...]
    tiny: tuple[Oddity, ...]
    dark: tuple[Oddity, ...]
    blurred: tuple[Oddity, ...]
    unread: tuple[str, ...]

    @property
    def leaks(self) -> int:
        """How many copies and pairs lie across splits."""
        return sum(copies.leak for copies in self.exact) + sum(pair.leak for pair in self.near)

    def as_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        values = asdict(self)
        for name in ("exact", "near"):
            for found, value in zip(getattr(self, name), values[name], strict=True):
                value["leak"] = found.leak
        return {"images": self.images, "leaks": self.leaks} | values
