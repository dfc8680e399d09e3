"""``params.yaml``: everything that changes results, checked before anything runs.

Owns the meaning, defaults and types of every parameter. What only changes speed (device,
batch size, workers) is not here but on the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.console import printable
from pipeline.errors import ParamsError, SourceMissing
from pipeline.extract_params import ExtractParams as ExtractParams
from pipeline.typed import build
from pipeline.typed import did_you_mean as did_you_mean
from pipeline.views import ViewUse
from pipeline.workspace import check_head_name

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Pooling = Literal["none", "avg", "max"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
TrainOn = Literal["train", "train+val"]
Normalize = Literal["none", "l2", "sqrt_l2", "standardize"]
NORMALIZATIONS: tuple[Normalize, ...] = get_args(Normalize)


#: Sources that are known by name; everything else is a path.
NAMED_SOURCES = ("digits", "cats-dogs")


def missing_source(source: str, shown: str, command: str) -> SourceMissing:
    """Return the error that there is nothing at `source`; `command` can name another."""
    return SourceMissing(
        f"{printable(shown)}: no such folder or archive. Name an existing one with `{command} --source`, or "
        f"one of {', '.join(NAMED_SOURCES)}.{did_you_mean(source, NAMED_SOURCES)}"
    )


@dataclass(frozen=True)
class SplitParams:
    """Shares of the images in each split; they sum to 1."""

    train: float = 0.7
    val: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        shares = [getattr(self, split) for split in SPLITS]
        if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            found = ", ".join(f"{split} {share:g}" for split, share in zip(SPLITS, shares, strict=True))
            raise ParamsError(
                f"dataset.split: expected three shares from 0 to 1 that sum to 1, found {found}."
            )


@dataclass(frozen=True)
class DatasetParams:
    """Which images, and how they are split.

    Attributes
    ----------
    source : str
        A folder, an archive, ``digits`` or ``cats-dogs``. A relative path starts at the workspace.
        Empty where the file names none: `prepare` then refuses, for a default would replace every image.
    limit : int or None
        Take a class-balanced sample of so many images; None takes all.
    split : SplitParams
        Used where the source brings no split of its own.
    seed : int
        Of the random split.
    """

    source: str = ""
    limit: int | None = None
    split: SplitParams = field(default_factory=SplitParams)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed("dataset.seed", self.seed)
        if self.limit is not None and self.limit < 1:
            raise ParamsError(f"dataset.limit: expected a whole number above 0, or null, found {self.limit}.")


@dataclass(frozen=True)
class HeadParams:
    """One classifier, what it sees of the features, and what becomes of its answers.

    Attributes
    ----------
    estimator : str
        A short name, or the dotted path of a class.
    params : dict
        Of its constructor. Keys of ``class_weight`` are labels.
    pooling : {"none", "avg", "max"}
        Over the 7 × 7 positions: 512 columns instead of 25,088.
    normalize : {"none", "l2", "sqrt_l2", "standardize"}
        What each row is brought to: as it is; length 1; the signed square roots, then length 1; columns of
        mean 0 and deviation 1 over the training rows.
    calibrate : bool
        Whether a temperature is fitted, which gives probabilities to a head that has none.
    unsure_below : float or None
        Above 0 and below 1: images whose best label is less probable are called unsure.
    train_on : {"train", "train+val"}
        The splits whose rows it learns from. With both, its scores on ``val`` are out of fold.
    views : {"center", "average", "stack"}
        What becomes of an image's views (`Derivation`).
    """

    estimator: str
    params: dict[str, Any] = field(default_factory=dict)
    pooling: Pooling = "none"
    normalize: Normalize = "none"
    calibrate: bool = False
    unsure_below: float | None = None
    train_on: TrainOn = "train"
    views: ViewUse = "center"

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits of `train_on`."""
        return ("train", "val") if self.train_on == "train+val" else ("train",)

    def check(self, key: str) -> None:
        """See that the numbers are in their ranges.

        Raises
        ------
        ParamsError
            One is not; its name begins with `key`.
        """
        if self.unsure_below is not None and not 0 < self.unsure_below < 1:
            raise ParamsError(
                f"{key}.unsure_below: expected a number above 0 and below 1, or null, "
                f"found {self.unsure_below:g}."
            )


@dataclass(frozen=True)
class EvaluateParams:
    """Which head the last stage scores on the test split."""

    head: str = "logreg"


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``.

    Attributes
    ----------
    seed : int
        Of everything random in training. The split has its own.
    versions : dict of str to int
        In workspaces made by ``pipeline init``: the version of each stage's code, so that DVC
        runs a stage again when an upgrade changes what it computes.
    """

    seed: int = 0
    dataset: DatasetParams = field(default_factory=DatasetParams)
    extract: ExtractParams = field(default_factory=ExtractParams)
    heads: dict[str, HeadParams] = field(default_factory=dict)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    versions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_seed("seed", self.seed)

    def head(self, name: str) -> HeadParams:
        """Return the head called `name`.

        Raises
        ------
        ParamsError
            There is none; near misses are named.
        """
        check_head_name(name)
        if name not in self.heads:
            raise ParamsError(
                f"head {name!r} is not among the heads of params.yaml "
                f"({', '.join(self.heads) or 'there are none'}).{did_you_mean(name, self.heads)}"
            )
        return self.heads[name]


#: Raised with every change of a stage's code that changes its results.
STAGE_VERSIONS: dict[str, int] = {"prepare": 1, "extract": 1, "train": 3, "evaluate": 3}


def read_params(path: Path) -> Params:
    """Read and check ``params.yaml``.

    Parameters
    ----------
    path : Path
        YAML 1.2, read with a loader that builds plain values only.

    Raises
    ------
    ParamsError
        The file is not YAML, a key is unknown, or a value has the wrong type; the message
        names the key.
    """
    try:
        return parse_params(path.read_bytes())
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


def parse_params(text: bytes) -> Params:
    """Check the text of a ``params.yaml``; see `read_params`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # ruamel lets the rest through
        raise ParamsError(f"not valid YAML: {' '.join(str(error).split())}") from error
    params: Params = build(Params, {} if content is None else content, "")
    for name, head in params.heads.items():
        check_head_name(name)
        head.check(f"heads.{name}")
    _check_versions(params.versions)
    if isinstance(content, dict) and "evaluate" in content and params.evaluate.head not in params.heads:
        raise ParamsError(
            f"evaluate.head: {params.evaluate.head!r} is not among the heads "
            f"({', '.join(params.heads) or 'there are none'})."
            f"{did_you_mean(params.evaluate.head, params.heads)}"
        )
    return params


def _check_seed(key: str, seed: int) -> None:
    if not 0 <= seed < 2**32:  # what NumPy's and scikit-learn's generators take
        raise ParamsError(f"{key}: expected a whole number from 0 to {2**32 - 1}, found {seed}.")


def _check_versions(versions: dict[str, int]) -> None:
    for stage, version in versions.items():
        current = STAGE_VERSIONS.get(stage)
        if version != current:
            raise ParamsError(
                f"versions.{stage} is {version}, and this release of the pipeline has {current}: "
                f"set it to {current}, and `dvc repro` runs that stage again."
                if current is not None
                else f"versions.{stage}: no such stage.{did_you_mean(stage, STAGE_VERSIONS)}"
            )
