"""What comes of a fine-tuned network: it is exported, reported on and shown like any other model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.networks.model_extractor import features_of
from pipeline.results.contact_sheet import contact_sheet
from pipeline.results.export.export import export
from pipeline.results.export.wanted import Wanted
from pipeline.results.report.answers import current_model, held_out_answers
from pipeline.results.report.report import report
from pipeline.workspace import Workspace
from tests.commands.conftest import finished_folder
from tests.networks.conftest import exact_folder, tuned, tuned_folder

__all__ = ["exact_folder", "finished_folder", "tuned", "tuned_folder"]  # fixtures

NAME = "linear-finetuned"


@pytest.fixture
def workspace(tuned: Workspace) -> Workspace:
    return tuned


def test_export__is_the_new_network(workspace: Workspace, tmp_path: Path) -> None:
    """The file is checked on images by `export` itself; its convolutions are the new ones."""
    wanted = Wanted(state_dict=tmp_path / "tuned.safetensors")
    [written] = export(workspace, NAME, wanted)
    assert (written.parity.split, written.parity.images) == ("val", 6)
    assert written.parity.difference <= 1e-4
    assert written.parity.stored_difference is not None  # from the model's own store
    state, network = load_file(written.path), load_file(workspace.model_folder(NAME) / "backbone.safetensors")
    assert all(np.array_equal(state[name], value) for name, value in network.items())


def test_answers__of_val_alone_by_the_model_itself(workspace: Workspace) -> None:
    model, features = current_model(workspace, LabelledFeatures.open(workspace), NAME, trust=False)
    assert features.identity == model.identity
    answers, made = held_out_answers(model, features, trust=False)
    assert (made, answers.out_of_fold, answers.left_out) == (None, False, 0)
    assert {image.split for image in answers.images} == {"val"}
    rows = features_of(workspace, NAME, model, "val").matrix("val")
    assert np.array_equal(answers.predictions.codes, model.predict(rows.X).codes)
    ordinary, features = current_model(workspace, LabelledFeatures.open(workspace), "linear", trust=False)
    assert held_out_answers(ordinary, features, trust=False)[0].out_of_fold


def test_report__says_what_it_is_of(workspace: Workspace) -> None:
    pytest.importorskip("vl_convert")
    page = report(workspace, head=NAME).read_text("utf-8")
    assert re.search(rf"<strong>{NAME}</strong>, on val: its network has learned from the other images", page)
    assert "No learning curve: for each point of it the network would have to be trained again." in page
    assert "finetune linear from block5 on, 2 epochs, number " in page
    assert "out of fold on train and val" not in page


def test_contact_sheet__of_its_mistakes(workspace: Workspace) -> None:
    sheet = contact_sheet(workspace, errors=NAME)
    assert sheet.title.startswith(f"{NAME}, on val: ")
    assert sheet.title.endswith("on 6 images of train and val")
    assert model_folder.load(workspace.model_folder(NAME)).training["command"] == "finetune"
