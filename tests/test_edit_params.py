from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.edit_params import changed_params, parsed_settings, source_for_params, write_params
from pipeline.errors import ParamsError, SourceError
from pipeline.params import read_params

TEXT = """\
# What this file is for.
seed: 3 # of everything

heads:
  # The best one.
  svm: {estimator: linear-svm, params: {C: 0.5}}
  knn:
    estimator: "knn"
dataset:
  limit: 600   # null takes all
  source: 'digits'
  split: {train: 0.7, val: 0.15, test: 0.15}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(TEXT)
    return tmp_path / "params.yaml"


# write_params


def test_write_params__keeps_comments_order_and_quotes(file: Path) -> None:
    write_params(file, {"dataset.limit": 500, "seed": 4})
    assert file.read_text() == TEXT.replace("600", "500").replace("seed: 3", "seed: 4")


def test_write_params__null_is_spelt_out(file: Path) -> None:
    write_params(file, {"dataset.limit": None})
    assert file.read_text() == TEXT.replace("600 ", "null")
    assert read_params(file).dataset.limit is None


def test_write_params__repositorys_own_file_survives(file: Path, request: pytest.FixtureRequest) -> None:
    original = (Path(request.config.rootpath) / "params.yaml").read_text()
    file.write_text(original)
    write_params(file, {"dataset.limit": 700})
    assert file.read_text() == original.replace("limit: 600", "limit: 700")


def test_write_params__new_keys_and_sections(file: Path) -> None:
    write_params(file, {"extract.resize": 300, "dataset.seed": 5, "versions": {"prepare": 1}})
    params = read_params(file)
    assert (params.extract.resize, params.dataset.seed, params.versions) == (300, 5, {"prepare": 1})
    assert file.read_text().startswith(TEXT)


def test_write_params__empty_file(file: Path) -> None:
    file.write_text("")
    write_params(file, {"dataset.limit": 7})
    assert read_params(file).dataset.limit == 7


@pytest.mark.parametrize(
    "source",
    [
        "a: b # c",
        "it's",
        '"',
        "x\ny",
        "\t",
        "- a",
        "*a",
        "yes",
        "12",
        "null",
        "~",
        "é猫",
        "\udcff",
        "a" * 300,
    ],
)
def test_write_params__any_text_comes_back(file: Path, source: str) -> None:
    write_params(file, {"dataset.source": source})
    assert read_params(file).dataset.source == source


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset.limit": 0}, "dataset.limit: expected a whole number above 0"),
        ({"dataset.limt": 5}, "dataset.limt: unknown key"),
        ({"seed.x": 5}, "seed: expected a mapping."),
        ({"heads.Bad": {"estimator": "knn"}}, "a head's name is"),
        ({"dataset.source": ""}, "dataset.source: expected text, found ''"),
    ],
)
def test_write_params__invalid_change_leaves_the_file(
    file: Path, changes: dict[str, object], said: str
) -> None:
    before = file.stat()
    with pytest.raises(ParamsError) as caught:
        write_params(file, changes)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert file.stat() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: 5\n", "dataset: expected a mapping."),
        ("dataset:\n", "dataset: expected a mapping."),
        ("- a\n", "the file: expected a mapping."),
        ("just text\n", "the file: expected a mapping."),
        ("seed: [\n", "not valid YAML: "),
        ("seed: 2001-13-45\n", "not valid YAML: "),
        ("seed: 1\nseed: 2\n", "not valid YAML: "),
        ("sead: 1\n", "sead: unknown key"),
    ],
)
def test_write_params__file_that_is_wrong_already(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        write_params(file, {"dataset.limit": 5})
    assert str(caught.value).startswith(f"{file}: {said}")
    assert file.read_text() == text


def test_write_params__mends_a_wrong_value(file: Path) -> None:
    file.write_text("dataset: {limit: -4}\n")
    write_params(file, {"dataset.limit": 5})
    assert file.read_text() == "dataset: {limit: 5}\n"


# changed_params


def fail_within(file: Path, error: BaseException, edit: str | None = None) -> None:
    with changed_params(file, {"dataset.limit": 5}):
        assert read_params(file).dataset.limit == 5
        if edit is not None:
            file.write_text(edit)
        raise error


def test_changed_params__stays_after_success(file: Path) -> None:
    with changed_params(file, {"dataset.limit": 5}):
        pass
    assert read_params(file).dataset.limit == 5


@pytest.mark.parametrize(
    "error", [SourceError("empty"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("a bug")]
)
def test_changed_params__taken_back_after_failure(file: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_within(file, error)
    assert file.read_text() == TEXT


def test_changed_params__what_somebody_edited_meanwhile_is_theirs(file: Path) -> None:
    with pytest.raises(SourceError):
        fail_within(file, SourceError("empty"), edit="seed: 77\n")
    assert file.read_text() == "seed: 77\n"


def test_changed_params__nothing_to_change_touches_nothing(file: Path) -> None:
    before = file.stat()
    with changed_params(file, {}):
        pass
    assert file.stat() == before


# source_for_params


@pytest.mark.parametrize("source", ["digits", "cats-dogs", "/absolute/path"])
def test_source_for_params__as_it_is(tmp_path: Path, source: str) -> None:
    assert source_for_params(source, tmp_path) == source


@pytest.mark.parametrize("linked", [False, True])
def test_source_for_params__relative_to_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "workspace").mkdir(parents=True)
    root = tmp_path / "deep" / "er" / "workspace"
    if linked:
        (tmp_path / "here" / "link").symlink_to(root)
        root = tmp_path / "here" / "link"
    monkeypatch.chdir(tmp_path / "here")
    written = source_for_params("photos", Path(os.path.relpath(root)))
    assert not Path(written).is_absolute()
    assert (root / written).samefile(tmp_path / "here" / "photos")


def test_source_for_params__home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert source_for_params("~/photos", tmp_path) == "/home/me/photos"


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "found nothing"), ("~nobody-of-that-name/x", "no such user. Write the path in full")],
)
def test_source_for_params__unusable(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(ParamsError, match=f"^--source.*{said}"):
        source_for_params(source, tmp_path)


# parsed_settings


def test_parsed_settings__values_as_in_yaml() -> None:
    settings = ["C=0.5", "n=3", "weights=null", "name=x=y", "flag=true", "list=[1, two]", "empty=", "s='1'"]
    assert parsed_settings(settings) == {
        "C": 0.5,
        "n": 3,
        "weights": None,
        "name": "x=y",
        "flag": True,
        "list": [1, "two"],
        "empty": None,
        "s": "1",
    }


@pytest.mark.parametrize(
    "setting", ["C", "=1", "", "C=[", "C={", "C=2001-13-45", "C=!!bool x", "C=!!python/name:os.x"]
)
def test_parsed_settings__malformed(setting: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parsed_settings([setting])
    assert str(caught.value).startswith(f"--set {setting}: ")
    assert "\n" not in str(caught.value)
