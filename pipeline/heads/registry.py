"""Which classifiers there are: short names with settings that suit VGG16's features, and scikit-learn's own.

Owns the way from a name and parameters to an unfitted estimator. Only the module that an
estimator needs is imported, and nothing outside scikit-learn without trust.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import HeadError
from pipeline.params import did_you_mean


@dataclass(frozen=True)
class Preset:
    """An estimator under a short name.

    Attributes
    ----------
    path : str
        Dotted path of its class.
    params : dict
        Parameters that differ from the constructor's defaults; the user's override them.
    note : str
        What it is, and why these parameters, in a line.
    scaled : dict of str to callable
        Parameters that follow from the training rows: functions of their root-mean-square norm.
    grid : dict of str to tuple
        What a sweep tries: of a scaled parameter multiples of the preset's value, of another one values. The
        first is the one to take among equals.
    """

    path: str
    note: str
    params: dict[str, Any] = field(default_factory=dict)
    scaled: dict[str, Callable[[float], float]] = field(default_factory=dict)
    grid: dict[str, tuple[float, ...]] = field(default_factory=dict)


# Of a regularisation: two decades to either side, nearest first.
_MULTIPLES = (1, 0.3, 3, 0.1, 10, 0.01, 100)

#: Chosen by cross-validation on the training and validation rows of 1,000 photographs of cats and dogs, and
#: of 600 digits; among equals the faster. A row of raw features has 25,088 columns, 85 % of them zeros, and
#: a norm of about 1,900 (photographs) or 560 (digits); derived rows have 1, 23, 45, 130, 160 or 1,000. What
#: the regularisation must be goes with the square of that, so the linear family's is given relative to
#: it, and then one number suits all views: on the photographs within 0.6 points of each view's own best, 1.2
#: where columns are standardised. (Absolute ones that suit photographs cost 1 to 5 points on the digits.)
PRESETS: dict[str, Preset] = {
    "linear": Preset("pipeline.heads.torch_head.TorchLinear", "torch.nn.Linear, trained by Adam"),
    "logreg": Preset(
        "sklearn.linear_model.LogisticRegression",
        "regularised for probabilities that mean something: log loss 0.06 on raw photographs, 0.27 at C = 1",
        {"max_iter": 1000},
        # the gradient, which `tol` bounds, goes with the norm; a tenth of it moves less than folds differ
        {"C": lambda norm: 500 / norm**2, "tol": lambda norm: 1e-5 * norm},
        {"C": _MULTIPLES},
    ),
    "linear-svm": Preset(
        "sklearn.svm.LinearSVC",
        "converges in dozens of iterations",
        scaled={"C": lambda norm: 2 / norm**2},
        grid={"C": _MULTIPLES},
    ),
    "ridge": Preset(
        "sklearn.linear_model.RidgeClassifier",
        "well conditioned on every view",
        scaled={"alpha": lambda norm: norm**2 / 2},
        grid={"alpha": _MULTIPLES},
    ),
    "knn": Preset(
        "sklearn.neighbors.KNeighborsClassifier",
        "by angle: Euclidean distance compares brightness, and is right for 63 % only, against 98 %",
        {"metric": "cosine", "algorithm": "brute"},
        grid={"n_neighbors": (5, 10, 3, 20, 1)},
    ),
    "rbf-svm": Preset(
        "sklearn.svm.SVC",
        "scikit-learn's own width suits the scale",
        {"C": 10},
        grid={"C": (10, 3, 30, 1, 100)},
    ),
    "lda": Preset(
        "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
        "by singular values: other solvers need columns by columns, 5 GB; pooled, lsqr and shrinkage: auto",
        {"solver": "svd"},
    ),
    "forest": Preset(
        "sklearn.ensemble.RandomForestClassifier",
        "300 trees are no better than 100",
        {"n_estimators": 100, "n_jobs": -1},
    ),
    "boosting": Preset(
        "sklearn.ensemble.GradientBoostingClassifier",
        "each split looks at 158 columns; the histogram kind takes 16 times as long to be no better",
        {"max_features": "sqrt"},
    ),
    "hist-boosting": Preset(
        "sklearn.ensemble.HistGradientBoostingClassifier",
        "with pooling, which leaves it 512 columns, a second; each split looks at a twentieth of the columns",
        {"max_features": 0.05},
    ),
    "naive-bayes": Preset(
        "sklearn.naive_bayes.MultinomialNB", "features are counts more than they are bell curves"
    ),
    "mlp": Preset(
        "sklearn.neural_network.MLPClassifier",
        "one hidden layer; stops when the loss on the training rows has settled",
        {"hidden_layer_sizes": [64], "max_iter": 200},
    ),
}

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def preset_of(estimator: str) -> Preset:
    """Find what `estimator` names.

    Parameters
    ----------
    estimator : str
        A short name, or the dotted path of a class.

    Raises
    ------
    HeadError
        It is neither.
    """
    if estimator in PRESETS:
        return PRESETS[estimator]
    if not _DOTTED.fullmatch(estimator):
        raise HeadError(
            f"estimator {estimator!r}: unknown. Known: {', '.join(PRESETS)}, and any classifier "
            f"of scikit-learn by its dotted path.{did_you_mean(estimator, PRESETS)}"
        )
    return Preset(estimator, "")


def import_module_of(estimator: str) -> None:
    """Import what `build` will need for an estimator; nothing where that may run foreign code."""
    if estimator in PRESETS or estimator.startswith("sklearn."):
        importlib.import_module(preset_of(estimator).path.rpartition(".")[0])


def build(
    estimator: str,
    params: Mapping[str, Any],
    *,
    seed: int,
    norm: float | None = None,
    trust: bool = False,
) -> Any:
    """Make an unfitted classifier.

    Parameters
    ----------
    estimator : str
        A short name, or the dotted path of a class.
    params : mapping
        Parameters of its constructor; they override a preset's.
    seed : int
        Becomes ``random_state`` where the constructor has it and nothing else is asked for.
    norm : float, optional
        Root-mean-square norm of the rows to come (`Preset.scaled`). Without it the classifier is good for
        looking at, not for fitting.
    trust : bool, default False
        Whether a class outside scikit-learn may be imported, which runs its module's code.

    Returns
    -------
    sklearn.base.BaseEstimator

    Raises
    ------
    HeadError
        The estimator or a parameter is unknown, the class is not a classifier, or it is
        outside scikit-learn and `trust` is false.
    """
    preset = preset_of(estimator)
    if not (estimator in PRESETS or estimator.startswith("sklearn.") or trust):
        raise HeadError(
            f"estimator {estimator!r} is outside scikit-learn, and importing it runs its code: "
            f"give `--trust` if you trust it, or use one of scikit-learn's."
        )
    kind = _classifier(preset.path)
    signature = inspect.signature(kind).parameters
    accepted = [name for name, parameter in signature.items() if parameter.kind not in _VARIADIC]
    takes_any = len(accepted) < len(signature)  # **kwargs, as some classifiers outside scikit-learn have
    for name in params:
        if name not in accepted and not takes_any:
            raise HeadError(
                f"estimator {estimator!r} has no parameter {str(name)!r}. "
                f"It has {', '.join(accepted)}.{did_you_mean(str(name), accepted)}"
            )
    scaled = {name: _rounded(of(norm)) for name, of in preset.scaled.items()} if norm else {}
    chosen = {**preset.params, **scaled, **params}
    if "random_state" in accepted:
        chosen.setdefault("random_state", seed)
    for name in accepted:
        if signature[name].default is inspect.Parameter.empty and name not in chosen:
            raise HeadError(
                f"estimator {estimator!r} needs the parameter {name!r}. Where that is another estimator, "
                f"params.yaml cannot hold it: use the estimator itself as a head."
            )
    return kind(**chosen)


def grid_of(estimator: str, norm: float) -> list[dict[str, float]]:
    """Return the parameters that a sweep tries, in the order of preference; one empty dict if there are none.

    Parameters
    ----------
    estimator : str
        A short name, or the dotted path of a class.
    norm : float
        Root-mean-square norm of the rows, above 0.
    """
    preset = preset_of(estimator)
    grid: list[dict[str, float]] = [{}]
    for name, values in preset.grid.items():
        of = preset.scaled.get(name)
        unit = of(norm) if of else None
        tried = values if unit is None else [_rounded(unit * multiple) for multiple in values]
        grid = [{**chosen, name: value} for chosen in grid for value in tried]
    return grid


def _rounded(value: float) -> float:
    """Round to three digits: more mean nothing, and differ among processors."""
    return float(f"{value:.2e}")


def _classifier(path: str) -> type:
    """Import the class at `path`, and see that it is a classifier."""
    module_path, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ImportError as error:
        raise HeadError(f"estimator {path!r}: {error}.") from None
    kind = getattr(module, name, None)
    if kind is None:
        classifiers = [known for known in dir(module) if known[0].isupper()]
        raise HeadError(
            f"estimator {path!r}: {module_path} has no {name!r}.{did_you_mean(name, classifiers)}"
        )
    from sklearn.base import BaseEstimator, ClassifierMixin

    if not (inspect.isclass(kind) and issubclass(kind, ClassifierMixin) and issubclass(kind, BaseEstimator)):
        raise HeadError(f"estimator {path!r} is not a classifier.")
    if inspect.isabstract(kind):
        raise HeadError(f"estimator {path!r} is not a classifier that can be used: it is abstract.")
    return kind
