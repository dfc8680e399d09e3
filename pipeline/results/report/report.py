"""``pipeline report``: everything that there is to see, as one page that opens anywhere.

Owns the order of the steps. All of it comes from the manifest, the store, the models and what other commands
have left under ``reports/``; the test split is not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.dataset.sources.source import source_root
from pipeline.files import write_atomically
from pipeline.heads.matrix import LabelledFeatures
from pipeline.results.dvc_plots import keep_plots_offline
from pipeline.results.metrics import score
from pipeline.results.report import feature_map, figures
from pipeline.results.report.answers import Answers, current_model, held_out_answers
from pipeline.results.report.curves import rankings
from pipeline.results.report.facts import data_facts, looks_at_test, provenance
from pipeline.results.report.feature_map import Method
from pipeline.results.report.figures import Figure
from pipeline.results.report.gallery import chosen, gallery
from pipeline.results.report.learning_curve import learning_curve
from pipeline.results.report.page import chart_library, render, require_chart_library
from pipeline.results.report.sections import audit_section, sweep_section
from pipeline.results.report.thumbnails import thumbnails
from pipeline.results.report.ways import ways
from pipeline.results.scores import scores
from pipeline.workspace import Workspace

# Lines of the table of images that are not used.
_MOST_UNUSED = 500


def report(
    workspace: Workspace,
    *,
    head: str | None = None,
    method: Method = "pca",
    output: Path | None = None,
    trust: bool = False,
) -> Path:
    """Write the report of a workspace.

    Parameters
    ----------
    workspace : Workspace
        With features, and the model in focus.
    head : str, optional
        Name of that model; by default the head that ``params.yaml`` scores on the test split.
    method : {"pca", "umap"}, default "pca"
        How the map of the images is drawn.
    output : Path, optional
        Where to write; by default ``reports/index.html``.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    Path
        The file. The same workspace gives the same bytes.

    Raises
    ------
    PipelineError
        The chart library, or what `method` needs, is not installed.
    ManifestError, MissingRows, IdentityMismatch
        There is no manifest, or not every image has features.
    ModelError
        The model is absent or damaged, or was trained on other images.
    HeadError
        There are too few images to hold some out.
    """
    require_chart_library()
    feature_map.require(method)
    own = LabelledFeatures.open(workspace)
    head = head or own.params.evaluate.head
    model, features = current_model(workspace, own, head, trust=trust)
    answers, made = held_out_answers(model, features, trust=trust)

    shown = chosen(answers)
    root = source_root(features.params.dataset.source, workspace)
    pictures = thumbnails([answers.images[place] for place in shown], root, features.params.extract)
    seen = gallery(answers, shown, pictures)

    drawn: list[Figure] = []
    notes: list[str] = []
    ranked = [] if answers.decisions is None else rankings(answers.y, answers.decisions, features.classes)
    if ranked:
        drawn += figures.ranking_figures(ranked)
    else:
        notes.append(
            f"No ROC, precision-recall or calibration: {model.estimator} does not say how sure it is."
        )
    probabilities = answers.predictions.probabilities
    if probabilities is not None:
        drawn.append(figures.calibration_figure(answers, probabilities))
    elif ranked:
        notes.append(
            f"No calibration: {model.estimator} has no probabilities. `calibrate: true` gives it some; until "
            f"then images are ordered by the lead of the best label over the next."
        )
    if made is None:
        notes.append("No learning curve: for each point of it the network would have to be trained again.")
    else:
        drawn.append(figures.learning_figure(learning_curve(model, *made, features, answers)))
    drawn += figures.training_figures(workspace.model_folder(head))
    in_cells = [entry.number for cell in seen.cells for entry in cell.entries if entry.picture]
    overview = _map(features, answers, method, in_cells)

    found = scores(workspace)
    values = {
        "title": workspace.root.resolve().name,
        "head": head,
        "estimator": model.estimator,
        "classes": features.classes,
        "total": len(features.manifest.usable),
        "scores": found,
        "ways": ways(workspace, own, found),
        "looks": looks_at_test(workspace, head),
        "metrics": score(head, "val", answers.y, answers.predictions, calibrating=answers.calibrating),
        "left_out": answers.left_out,
        "out_of_fold": answers.out_of_fold,
        "mistakes": len(answers.mistakes),
        "gallery": seen,
        "recognised": {cell.actual: cell.name for cell in seen.cells if cell.right},
        "areas": {each.label: each for each in ranked},
        "figures": drawn,
        "notes": notes,
        "map": overview,
        "sweep": sweep_section(workspace, features),
        "audit": audit_section(workspace, features),
        "facts": data_facts(features.manifest, workspace),
        "most_unused": _MOST_UNUSED,
        "provenance": provenance(workspace, features, head),
        "params": workspace.params_file.read_text("utf-8"),
    }
    path = output or workspace.report_file
    library = chart_library()
    write_atomically(path, render(values, {each.name: each.chart for each in (*drawn, overview)}, library))
    keep_plots_offline(workspace, library)
    return path


def _map(features: LabelledFeatures, answers: Answers, method: Method, with_picture: list[int]) -> Figure:
    """Draw the images of `answers` where their features put them."""
    derivation = feature_map.DERIVATION.fitting(features.identity.dimension)
    pooled = features.matrix("train", "val", derivation=derivation)
    found = feature_map.projected(pooled.X, method, features.params.seed)
    place_of = {path: place for place, path in enumerate(pooled.paths)}
    mine = np.array([place_of[image.path] for image in answers.images])
    return figures.map_figure(answers, found, found.places[mine], with_picture)
