"""The plan of the house, held by tests: who may import whom, and what every file must have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}

#: Modules that import torch at their top, and are themselves imported only where it is needed.
NEED_TORCH = {
    "features/torch_backbone.py",
    "features/torch_fused.py",
    "features/torch_jpeg.py",
    "features/torch_network.py",
    "features/transformer.py",
    "features/vgg16_transformer.py",
    "heads/torch_device.py",
    "heads/torch_head.py",
    "heads/torch_plain_rows.py",
    "heads/torch_rows.py",
    "heads/torch_solvers.py",
    "networks/torch_learner.py",
    "networks/torch_parts.py",
    "networks/torch_training.py",
    "networks/torch_tuning.py",
    "results/export/classifier.py",
    "results/export/forms.py",
    "results/export/onnx_file.py",
    "results/export/torch_file.py",
    "results/summary.py",
}

#: In the order in which data flows; imports run one way with it.
ROOMS = ("dataset", "features", "heads", "networks", "results", "commands", "cli", "__init__")


def room_of(name: str) -> str:
    """Room of a file or module below ``pipeline``; "" for the ground that all rooms stand on."""
    first = name.replace(".", "/").split("/")[0]
    return first if first in ROOMS else ""


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_that_import(*modules: str) -> set[str]:
    return {
        name
        for name, tree in FILES.items()
        if any(
            found == module or found.startswith(module + ".")
            for found in imported(tree)
            for module in modules
        )
    }


@pytest.mark.parametrize("name", FILES)
def test_imports_run_one_way(name: str) -> None:
    here = room_of(name.removesuffix(".py"))
    for module in imported(FILES[name]):
        if not module.startswith("pipeline."):
            continue
        there = room_of(module.removeprefix("pipeline."))
        if there == "":
            continue
        assert here != "", f"{name} is ground, and stands on the room {there}"
        assert ROOMS.index(there) <= ROOMS.index(here), f"{name} reaches forward to {module}"
        if here == there == "commands":
            assert module in {
                "pipeline.commands",
                *(
                    f"pipeline.commands.{shared}"
                    for shared in (
                        "CLUSTER_OPTIONS",
                        "DEVICES",
                        "cluster_of",
                        "cluster_options",
                        "complete_file",
                        "complete_head",
                        "complete_model",
                        "network_options",
                        "workspace_of",
                    )
                ),
            }


def test_only_the_shard_and_the_plain_copy_open_hdf5() -> None:
    assert files_that_import("h5py") == {"features/shard.py", "results/export/features_file.py"}


def test_dask_is_known_where_work_is_shared_out_and_nowhere_else() -> None:
    assert files_that_import("dask", "distributed") == {
        "attempt.py",
        "cluster.py",
        "connection.py",
        "dataset/on_cluster.py",
        "features/on_cluster.py",
    }


def test_heads_see_no_image() -> None:
    in_features = ("backbone", "decoder", "extract", "extraction", "extractor", "transforms")
    forbidden = (
        "PIL",
        "torchvision",
        "pipeline.dataset.images",
        *(f"pipeline.features.{x}" for x in in_features),
    )
    assert not {name for name in files_that_import(*forbidden) if room_of(name) == "heads"}


def test_only_the_command_line_knows_click() -> None:
    assert {room_of(name.removesuffix(".py")) for name in files_that_import("click")} == {"commands", "cli"}


@pytest.mark.parametrize("name", FILES)
def test_heavy_imports_wait_until_they_are_needed(name: str) -> None:
    """`pipeline --help` and the scikit-learn heads start without them."""
    heavy = {"torch", "torchvision", "sklearn", "scipy", "skops", "rich", "ruamel", "dvc", "torchinfo"}
    heavy |= {"onnx", "onnxruntime", "dask", "distributed"}
    top = [node for node in FILES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {module.split(".")[0] for node in top for module in imported(node)} & heavy
    assert not found or name in NEED_TORCH


@pytest.mark.parametrize("name", FILES)
def test_modules_that_need_torch_are_imported_inside_functions(name: str) -> None:
    heavy = {"pipeline." + module.removesuffix(".py").replace("/", ".") for module in NEED_TORCH}
    top = [node for node in FILES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {module for node in top for module in imported(node)} & heavy
    assert not found or name in NEED_TORCH


@pytest.mark.parametrize("name", FILES)
def test_file_is_short(name: str) -> None:
    assert len((PACKAGE / name).read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", FILES)
def test_everything_public_has_a_docstring(name: str) -> None:
    assert ast.get_docstring(FILES[name]), f"{name} has none"

    def check(parent: ast.Module | ast.ClassDef) -> None:
        for node in parent.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}: {node.name} has none"
                if isinstance(node, ast.ClassDef):
                    check(node)

    check(FILES[name])


def test_nothing_prints_but_the_console() -> None:
    printing = {
        name
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    # everything else goes through it, or through click
    assert printing == {"console.py"}


def test_no_pickle_is_loaded_but_with_trust() -> None:
    loaders = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    calls = {
        name
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"load", "loads", "Unpickler"}
        and isinstance(node.value, ast.Name)
        and node.value.id in loaders
    }
    assert calls <= {"heads/head_file.py"}


def test_torch_loads_tensors_only() -> None:
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), name


def test_no_code_is_evaluated() -> None:
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"eval", "exec", "os.system"}, name
                assert "shell=True" not in ast.unparse(node), name


@pytest.mark.parametrize("name", FILES)
def test_no_exception_is_swallowed_whole(name: str) -> None:
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}: bare except"
            if ast.unparse(node.type) in {"Exception", "BaseException"}:
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"{name}:{node.lineno}"
