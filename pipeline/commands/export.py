"""`pipeline export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pipeline.commands import complete_model, workspace_of
from pipeline.console import counted, printable

if TYPE_CHECKING:
    from pipeline.results.export.export import Exported
    from pipeline.results.export.features_file import FeaturesFile
    from pipeline.results.export.wanted import Wanted

_FILE = click.Path(path_type=Path, dir_okay=False)
_ENDINGS = {
    "--onnx": (".onnx",),
    "--state-dict": (".safetensors", ".pth", ".pt"),
    "--torch-export": (".pt2",),
    "--features": (".h5", ".hdf5"),
}


@click.command(
    short_help="Write a classifier as ONNX or for torch, or features as HDF5.",
    epilog="Example:  pipeline export logreg --onnx pets.onnx --with-preprocessing",
)
@click.argument("model", metavar="[MODEL]", required=False, shell_complete=complete_model)
@click.option("--onnx", type=_FILE, metavar="FILE", help="The classifier as ONNX (extra `export`).")
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="The ONNX takes decoded images of any size, uint8 (n, height, width, 3), and resizes, crops and "
    "normalises them itself.",
)
@click.option(
    "--state-dict",
    type=_FILE,
    metavar="FILE",
    help="The weights as torchvision's network takes them once its classifier is a torch.nn.Linear. "
    "A .safetensors file holds the classes, too.",
)
@click.option(
    "--torch-export", type=_FILE, metavar="FILE", help="The classifier as torch.export.load reads it."
)
@click.option(
    "--features",
    type=_FILE,
    metavar="FILE",
    help="All features as one plain HDF5: features, labels, paths, split, classes. It needs no MODEL.",
)
@click.option(
    "--split",
    "splits",
    type=click.Choice(["train", "val", "test"]),
    multiple=True,
    help="Features of this split only; may be repeated.  [default: all]",
)
@click.option("--trust", is_flag=True, help="Load a model that is a pickle, which can run any code.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    onnx: Path | None,
    with_preprocessing: bool,
    state_dict: Path | None,
    torch_export: Path | None,
    features: Path | None,
    splits: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Write MODEL, a name in models/ or the path of such a folder, together with its network.

    It gives probabilities, or scores where the head has none; a state dict gives logits. The head must be
    linear. Every file is read back and asked about images of val: one that does not
    say what the pipeline says is not written. Without --with-preprocessing a classifier takes float32
    (n, 3, 224, 224): resized and cropped as in its metadata, divided by 255, normalised.
    """
    from pipeline.results.export.wanted import Wanted

    wanted = Wanted(onnx, with_preprocessing, state_dict, torch_export)
    _check_usage(model, wanted, features, splits)
    workspace = workspace_of(ctx)
    classifiers: list[Exported] = []
    matrix = None
    if model is not None:
        from pipeline.results.export.export import export

        classifiers = export(workspace, model, wanted, trust=trust)
    if features is not None:
        from pipeline.params import Split
        from pipeline.results.export.features_file import write_features

        matrix = write_features(workspace, features, cast("tuple[Split, ...]", splits))
    if as_json:
        written: list[Any] = [*classifiers, *([matrix] if matrix else [])]
        click.echo(json.dumps([asdict(each) for each in written], indent=2, default=str))
        return
    for classifier in classifiers:
        click.echo(_told(classifier))
    if matrix:
        click.echo(_told_features(matrix))


def _check_usage(model: str | None, wanted: Wanted, features: Path | None, splits: tuple[str, ...]) -> None:
    """Refuse options that do not go together, and files that cannot be what they are called."""
    if wanted.with_preprocessing and not wanted.onnx:
        raise click.UsageError("--with-preprocessing belongs to --onnx.")
    if splits and not features:
        raise click.UsageError("--split belongs to --features.")
    if not (wanted.files or features):
        raise click.UsageError("Nothing to write: give --onnx, --state-dict, --torch-export or --features.")
    if wanted.files and model is None:
        raise click.UsageError("Missing argument 'MODEL': the classifier to be written.")
    if model is not None and not wanted.files:
        raise click.UsageError("--features holds no classifier: leave MODEL out, or give --onnx FILE too.")
    files = (wanted.onnx, wanted.state_dict, wanted.torch_export, features)
    for (option, endings), file in zip(_ENDINGS.items(), files, strict=True):
        if file is None:
            continue
        if file.exists() and not file.is_file():  # such as /dev/null
            raise click.BadParameter(f"{printable(str(file))}: expected a regular file, or a new one")
        if file.suffix not in endings:  # no two options share one, so no two write the same file
            raise click.BadParameter(f"expected a file that ends in {', '.join(endings)}", param_hint=option)


def _told(written: Exported) -> str:
    """Say what was written, and how it was found to compare."""
    parity = written.parity
    stored = ""
    if parity.stored_difference is not None:
        stored = f" ({parity.stored_difference:.1e} to those of the stored features)"
    return (
        f"{_named(written.path)}: {written.takes} -> {written.gives}\n"
        f"  as the pipeline on {counted(parity.images, 'image')} of {parity.split}: same labels, "
        f"{parity.numbers} within {parity.difference:.1e}{stored}"
    )


def _told_features(written: FeaturesFile) -> str:
    classes = ", ".join(map(printable, written.classes))
    return (
        f"{_named(written.path)}: features, {written.dtype} ({written.rows}, {written.columns}), labels, "
        f"paths, split, classes ({classes})"
    )


def _named(path: Path) -> str:
    from pipeline.heads.memory import said_size

    return f"{printable(str(path))} ({said_size(path.stat().st_size)})"
