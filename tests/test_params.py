from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.params import STAGE_VERSIONS, HeadParams, Params, did_you_mean, parse_params, read_params


def complaint(text: str | bytes) -> str:
    """What is said against a ``params.yaml``; fails if nothing is."""
    with pytest.raises(ParamsError) as caught:
        parse_params(text.encode() if isinstance(text, str) else text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}"])
def test_empty__is_all_defaults(text: str) -> None:
    assert parse_params(text.encode()) == Params()


def test_defaults__are_those_of_the_repository(request: pytest.FixtureRequest) -> None:
    params = read_params(Path(request.config.rootpath) / "params.yaml")
    assert params.extract == Params().extract
    assert (params.dataset.source, params.dataset.limit, params.seed) == ("digits", 600, 0)
    assert params.evaluate.head in params.heads


def test_everything_given() -> None:
    params = parse_params(
        b"""
        seed: 4294967295
        dataset: {source: "photos\\nx", limit: 1, split: {train: 1, val: 0, test: 0}, seed: 3}
        extract: {backbone: vgg16, weights: w.pth, precision: float32, resize: 32, image_size: 32}
        heads: {a: {estimator: knn, params: {n_neighbors: 3, weights: null, deep: {x: [1, 2.5, yes]}}}}
        evaluate: {head: a}
        versions: {prepare: 1}
        """
    )
    assert params.seed == 2**32 - 1
    assert params.dataset.source == "photos\nx"
    assert params.dataset.split.train == 1.0
    assert isinstance(params.dataset.split.train, float)
    assert params.heads["a"].params == {"n_neighbors": 3, "weights": None, "deep": {"x": [1, 2.5, "yes"]}}


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("sead: 1", "sead", "seed"),
        ("dataset: {sorce: x}", "dataset.sorce", "source"),
        ("dataset: {split: {tran: 1}}", "dataset.split.tran", "train"),
        ("extract: {precison: half}", "extract.precison", "precision"),
        ("heads: {a: {estimater: knn}}", "heads.a.estimater", "estimator"),
        ("heads: {a: {estimator: knn, poling: avg}}", "heads.a.poling", "pooling"),
        ("evaluate: {heads: a}", "evaluate.heads", "head"),
        ("versions: {extrct: 1}", "versions.extrct", "extract"),
        ("3: 4", "3", ""),
        ("? [a]\n: b", "('a',)", ""),
    ],
)
def test_unknown_key__is_named_with_the_nearest(text: str, key: str, nearest: str) -> None:
    said = complaint(text)
    assert said.startswith(f"{key}: ")
    assert said.endswith(f"Did you mean {nearest!r}?" if nearest else ".")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: '1'", "seed: expected a whole number, found '1'."),
        ("seed: 1.0", "seed: expected a whole number, found 1.0."),
        ("seed: true", "seed: expected a whole number, found True."),
        ("seed:", "seed: expected a whole number, found nothing."),
        ("seed: 2001-01-01", "seed: expected a whole number, found datetime.date(2001, 1, 1)."),
        ("dataset: {seed: [1]}", "dataset.seed: expected a whole number, found [1]."),
        ("dataset: {limit: 5.5}", "dataset.limit: expected a whole number, found 5.5."),
        ("dataset: {limit: false}", "dataset.limit: expected a whole number, found False."),
        ("dataset: {source: 5}", "dataset.source: expected text, found 5."),
        ("dataset: {source: ''}", "dataset.source: expected text, found ''."),
        ("dataset: {split: {train: yes}}", "dataset.split.train: expected a number, found 'yes'."),
        ("dataset: {split: {train: true}}", "dataset.split.train: expected a number, found True."),
        ("dataset: {split: {train: .nan}}", "dataset.split.train: expected a number, found nan."),
        ("dataset: {split: {train: .inf}}", "dataset.split.train: expected a number, found inf."),
        ("dataset: 5", "dataset: expected a mapping, found 5."),
        ("dataset:", "dataset: expected a mapping, found nothing."),
        ("- a", "the file: expected a mapping, found ['a']."),
        ("text", "the file: expected a mapping, found 'text'."),
        ("heads: [a]", "heads: expected a mapping, found ['a']."),
        ("heads: {1: {estimator: knn}}", "heads: expected names as keys, found 1."),
        ("heads: {a: knn}", "heads.a: expected a mapping, found 'knn'."),
        ("heads: {a: {}}", "heads.a.estimator: missing."),
        ("heads: {a: {estimator: knn, params: 3}}", "heads.a.params: expected a mapping, found 3."),
        ("heads: {a: {estimator: knn, params: {1: 2}}}", "heads.a.params: expected names as keys, found 1."),
        ("heads: {a: {estimator: knn, calibrate: 1}}", "heads.a.calibrate: expected true or false, found 1."),
        (
            "heads: {a: {estimator: knn, calibrate: yes}}",
            "heads.a.calibrate: expected true or false, found 'yes'.",
        ),
        (
            "heads: {a: {estimator: knn, unsure_below: high}}",
            "heads.a.unsure_below: expected a number, found 'high'.",
        ),
        ("extract: {weights: null}", "extract.weights: expected text, found nothing."),
        ("extract: {resize: '256'}", "extract.resize: expected a whole number, found '256'."),
        ("versions: {extract: '1'}", "versions.extract: expected a whole number, found '1'."),
    ],
)
def test_wrong_type__names_the_key_and_what_was_found(text: str, said: str) -> None:
    assert complaint(text) == said


UNSURE = "heads.a.unsure_below: expected a number above 0 and below 1, or null, "
SHARES = "dataset.split: expected three shares from 0 to 1 that sum to 1, "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: -1", "seed: expected a whole number from 0 to 4294967295, found -1."),
        ("seed: 4294967296", "seed: expected a whole number from 0 to 4294967295, found 4294967296."),
        ("dataset: {seed: -1}", "dataset.seed: expected a whole number from 0 to 4294967295, found -1."),
        ("dataset: {limit: 0}", "dataset.limit: expected a whole number above 0, or null, found 0."),
        (
            "dataset: {split: {train: 0.7, val: 0.2, test: 0.2}}",
            SHARES + "found train 0.7, val 0.2, test 0.2.",
        ),
        (
            "dataset: {split: {train: 1.2, val: -0.2, test: 0}}",
            SHARES + "found train 1.2, val -0.2, test 0.",
        ),
        (
            "extract: {backbone: vgg}",
            "extract.backbone: expected vgg16 or another of torchvision's classifiers, such as resnet50, "
            "convnext_tiny or vit_b_16, found 'vgg'.",
        ),
        ("extract: {backbone: squeezenet1_0}", "extract.backbone: squeezenet1_0 ends in a convolution"),
        ("extract: {backbone: [vgg16]}", "extract.backbone: expected text, found ['vgg16']."),
        (
            "extract: {backbone: resnet50}",
            "extract.weights: oxford are weights of vgg16, and extract.backbone is resnet50. Set "
            "extract.weights to DEFAULT (torchvision's), or to the path of a .pth or .safetensors file.",
        ),
        (
            "extract: {backbone: resnet50, weights: DEFAULT, precision: int8}",
            "extract.precision: int8 is there for vgg16 only, and extract.backbone is resnet50. "
            "Set extract.precision to half or float32.",
        ),
        (
            "extract: {backbone: alexnet, weights: DEFAULT, image_size: 62}",
            "extract.image_size: alexnet takes images of 63 pixels or more, found 62. "
            "Make it larger, or set extract.backbone to another network.",
        ),
        (
            "extract: {backbone: vit_b_16, weights: DEFAULT, image_size: 256}",
            "extract.image_size: vit_b_16 takes images of 224 pixels and no others, found 256. "
            "Set it to 224, or extract.backbone to another network.",
        ),
        (
            "extract: {precision: [half]}",
            "extract.precision: expected one of half, float32, int8, found ['half'].",
        ),
        ("heads: {a: {estimator: knn, pooling: mean}}", "heads.a.pooling: expected one of none, avg, max"),
        ("heads: {a: {estimator: knn, pooling: null}}", "heads.a.pooling: expected one of none, avg, max"),
        ("heads: {a: {estimator: knn, normalize: L2}}", "heads.a.normalize: expected one of none, l2"),
        ("heads: {a: {estimator: knn, unsure_below: 0}}", UNSURE + "found 0."),
        ("heads: {a: {estimator: knn, unsure_below: 1.0}}", UNSURE + "found 1."),
        ("heads: {a: {estimator: knn, unsure_below: -0.5}}", UNSURE + "found -0.5."),
        ("extract: {storage: f64}", "extract.storage: expected one of float16, float32, found 'f64'."),
        (
            "extract: {image_size: 31}",
            "extract: expected 32 <= image_size <= resize <= 4096, found image_size 31 and resize 256.",
        ),
        (
            "extract: {resize: 223}",
            "extract: expected 32 <= image_size <= resize <= 4096, found image_size 224 and resize 223.",
        ),
        (
            "extract: {resize: 4097}",
            "extract: expected 32 <= image_size <= resize <= 4096, found image_size 224 and resize 4097.",
        ),
    ],
)  # fmt: skip
def test_out_of_bounds(text: str, said: str) -> None:
    assert complaint(text).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "image_size: 32, resize: 32",
        "image_size: 4096, resize: 4096",
        "backbone: resnet50, weights: DEFAULT, image_size: 32",
        "backbone: alexnet, weights: DEFAULT, image_size: 63",
        "backbone: vit_b_16, weights: DEFAULT",
    ],
)
def test_bounds__are_allowed(text: str) -> None:
    parse_params(f"extract: {{{text}}}".encode())


@pytest.mark.parametrize("name", ["A", "1a", "a b", "a;rm", "a/b", "-a", "", "é", "a\\nb"])
def test_head_names__that_a_shell_would_misread(name: str) -> None:
    assert "a head's name is a lower-case letter followed by" in complaint(
        f'heads: {{"{name}": {{estimator: knn}}}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: b: c", "{", "x: *y", "seed: 1\nseed: 2", "---\nseed: 1\n---\nseed: 2", "<<: 3",
        "%YAML 3.0\n---\na: 1", "seed: !!python/object/apply:os.system [true]", "!!python/name:os.system",
        "seed: !!binary abc",
        "seed: 2001-13-45", "seed: !!int abc", "seed: !!float x", "seed: !!bool x", "seed: !!timestamp foo",
        "\t- a", "\x00", "[" * 5000, "? {a: b}\n: c",
    ],
)  # fmt: skip
def test_not_yaml(text: str) -> None:
    assert complaint(text).startswith("not valid YAML: ")


def test_heads__what_stands_between_features_and_answer() -> None:
    params = parse_params(
        b"heads: {a: {estimator: knn}, b: {estimator: ridge, pooling: avg, normalize: sqrt_l2, "
        b"calibrate: true, unsure_below: 0.75}}"
    )
    assert params.heads["a"] == HeadParams("knn", {}, "none", "none", False, None)
    assert params.heads["b"] == HeadParams("ridge", {}, "avg", "sqrt_l2", True, 0.75)


def test_not_yaml__not_utf8() -> None:
    assert complaint(b"seed: \xff\xfe").startswith("not valid YAML: ")


def test_number_too_large_for_a_float() -> None:
    assert complaint(f"dataset: {{split: {{train: 1{'0' * 400}}}}}").startswith(
        "dataset.split.train: expected a number"
    )


def test_read_params__names_the_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("sead: 1")
    with pytest.raises(ParamsError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: sead: unknown key.")


def test_versions__of_another_release() -> None:
    said = complaint(f"versions: {{extract: {STAGE_VERSIONS['extract'] + 1}}}")
    assert "versions.extract is 2, and this release of the pipeline has 1: set it to 1" in said


def test_head__known_and_unknown() -> None:
    params = Params(heads={"logreg": HeadParams("logreg"), "knn": HeadParams("knn")})
    assert params.head("knn").estimator == "knn"
    with pytest.raises(
        ParamsError, match=r"head 'logrg' is not among .*\(logreg, knn\)\. Did you mean 'logreg'\?"
    ):
        params.head("logrg")
    with pytest.raises(ParamsError, match="a head's name is a lower-case letter"):
        params.head("../x")
    with pytest.raises(ParamsError, match="there are none"):
        Params().head("knn")


def test_did_you_mean__nothing_near() -> None:
    assert did_you_mean("zebra", ["seed"]) == ""
    assert did_you_mean("sed", ["seed"]) == " Did you mean 'seed'?"


def test_evaluate_head__must_be_a_head() -> None:
    text = b"heads: {logreg: {estimator: logreg}}\nevaluate: {head: logrge}\n"
    with pytest.raises(
        ParamsError, match=r"evaluate.head: 'logrge' is not among the heads \(logreg\). Did you mean"
    ):
        parse_params(text)
    assert parse_params(text.replace(b"logrge", b"logreg")).evaluate.head == "logreg"
