"""How fast stage one is, as ratios measured side by side in one run.

    python benchmarks/extract.py speed ../photos --images 96
    python benchmarks/extract.py memory ../photos
    python benchmarks/extract.py nothing-new --rows 25000

``speed`` compares, on the same images: the plain loop that people write, `pipeline extract`, and
the bare forward pass on one resident batch (the ceiling). The three take turns, so that a noisy
machine is noisy for all of them. It wants a folder with one folder a class.
"""

from __future__ import annotations

import hashlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from machine import described

from pipeline import console
from pipeline.dataset.manifest import ImageRow, write_manifest
from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.features.extract import extract
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.identity import DIMENSION
from pipeline.features.store import SHARD_ROWS, FeatureStore, RowKey
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace

#: Multiplications and additions of VGG16's convolutions for one image of 224 × 224 (`pipeline summary`).
GFLOP_PER_IMAGE = 30.7


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure stage one."""


@main.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=96, show_default=True, help="How many of them.")
@click.option("--copies", default=1, show_default=True, help="Files made of each, for extract alone.")
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--decoder", default="pillow", show_default=True, help="Of extract: pillow, nvjpeg (on CUDA).")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="BACKEND:PRECISION",
    default=["torch:half", "openvino:half", "openvino:int8"],
    show_default=True,
)
def speed(
    source: Path, images: int, copies: int, rounds: int, device: str, decoder: str, variants: tuple[str, ...]
) -> None:
    """Compare the plain loop, `pipeline extract` and the bare forward pass."""
    _say_where(device)
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photos(source, Path(scratch) / "photos", images)
        many = _photos(source, Path(scratch) / "copies", images, copies)
        rates: dict[str, list[float]] = {"plain loop, float32": []}
        shares: dict[str, dict[str, float]] = {}
        runs = {name: _Variant(name, many, Path(scratch), device, decoder) for name in variants}
        for _ in range(rounds):
            rates["plain loop, float32"].append(_rate(images, lambda: _plain_loop(photos, device)))
            for name, run in runs.items():
                started = time.perf_counter()
                parts = run.extract()
                parts["all"] = time.perf_counter() - started
                rates.setdefault(f"extract, {name}", []).append(images * copies / parts["all"])
                shares[name] = parts
                rates.setdefault(f"ceiling, {name}", []).append(run.ceiling())
    plain = statistics.median(rates["plain loop, float32"])
    rows = []
    for name, measured in rates.items():
        rate = statistics.median(measured)
        kind, _, variant = name.partition(", ")
        ceiling = statistics.median(rates[f"ceiling, {variant}"]) if kind == "extract" else None
        share = shares[variant] if kind == "extract" else None
        rows.append(
            [
                name,
                f"{rate:.2f}",
                f"{min(measured):.2f}-{max(measured):.2f}",
                f"{rate / plain:.2f}",
                f"{rate / ceiling:.1%}" if ceiling else "",
                *(f"{share[part] / share['all']:.1%}" if share else "" for part in _PARTS),
            ]
        )
    header = ["", "images/s", "range", "x plain", "of ceiling", *_PARTS]
    click.echo(console.table(header, rows))
    click.echo(
        f"{images} images, for extract {copies} times, median of {rounds} rounds; extract includes setting "
        f"the network up; the ceiling is the network alone on a batch that lies where it computes"
    )
    if device == "cuda":
        best = max(statistics.median(r) for name, r in rates.items() if name.startswith("ceiling"))
        of_card = best * GFLOP_PER_IMAGE / 1e3 / _matrix_teraflops()
        click.echo(f"{of_card:.1%} of this card's own half-precision matrix rate")


_PARTS = ["decode", "forward", "write"]


class _Variant:
    """One backend and precision, extracting the same images again and again."""

    def __init__(self, name: str, photos: Path, scratch: Path, device: str, decoder: str) -> None:
        backend, precision = name.split(":")
        self._execution = Execution(device=device, backend=backend)
        self._workspace = _workspace(scratch / name.replace(":", "-"), photos, precision)
        write_params(self._workspace.params_file, {"extract.decoder": decoder})
        store = FeatureStore.create(self._workspace.store_folder, Extraction.of(self._workspace).identity)
        assert not store.keys()  # and the network of int8 is drawn

    def extract(self) -> dict[str, float]:
        """Extract everything, and return where the time went."""
        for shard in self._workspace.store_folder.glob("*.h5"):
            shard.unlink()
        return dict(extract(self._workspace, self._execution).seconds)

    def ceiling(self) -> float:
        """Images a second of the network alone, on one batch that stays where it is."""
        extraction = Extraction.of(self._workspace)
        extractor = extraction.extractor(self._execution)
        shape = (extractor.batch_size, 224, 224, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        if self._execution.device == "cuda":
            return _on_the_card(extraction, pixels)
        batch = list(pixels)
        extractor.forward(batch)
        times: list[float] = []
        while sum(times) < 5 or len(times) < 3:
            started = time.perf_counter()
            extractor.forward(batch)
            times.append(time.perf_counter() - started)
        return len(batch) / statistics.median(times)


def _on_the_card(extraction: Extraction, pixels: npt.NDArray[np.uint8]) -> float:
    """Images a second where neither they nor the features leave the card."""
    import torch

    from pipeline.features.torch_backbone import TorchBackbone

    device = torch.device("cuda")
    params = extraction.params
    backbone = TorchBackbone(extraction.weights, params.precision, device, storage=params.storage)
    resident = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).to(device)
    backbone.on_device(resident)
    times: list[float] = []
    for _ in range(20):
        started, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        started.record()
        backbone.on_device(resident)
        done.record()
        done.synchronize()
        times.append(started.elapsed_time(done) / 1e3)
    return len(pixels) / statistics.median(times)


def _plain_loop(photos: Path, device: str) -> None:
    """Do what people write: torchvision's example, and the features kept with ``torch.save``."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.models import vgg16

    network = vgg16(weights=None).to(device).eval()
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    features = []
    with torch.no_grad():
        for batch, _ in DataLoader(ImageFolder(str(photos), transform), batch_size=32, num_workers=0):
            outputs = network.avgpool(network.features(batch.to(device)))
            features.append(torch.flatten(outputs, 1).cpu())
    with tempfile.TemporaryDirectory() as folder:
        torch.save(torch.cat(features), Path(folder) / "features.pt")


def _matrix_teraflops(size: int = 8192) -> float:
    import torch

    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times) / 1e12


@main.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--few", default=300, show_default=True)
@click.option("--many", default=1000, show_default=True)
def memory(source: Path, few: int, many: int) -> None:
    """Measure the peak memory of `pipeline extract` for few images and for many: it should be flat."""
    _say_where("cpu")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in (few, many):
            photos = _photos(source, Path(scratch) / f"photos-{count}", count)
            workspace = _workspace(Path(scratch) / str(count), photos, "half")
            own, workers = _peaks("extract", workspace)
            rows.append([str(count), f"{own / 1e6:.0f} MB", f"{workers / 1e6:.0f} MB"])
    click.echo(console.table(["images", "extract", "largest worker"], rows))


@main.command("nothing-new")
@click.option("--rows", "count", default=25_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def nothing_new(count: int, rounds: int) -> None:
    """Time a second `pipeline extract`, interpreter start included, over a store that has every row."""
    _say_where("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        create_workspace(Path(scratch) / "workspace", str(photos))
        workspace = Workspace(Path(scratch) / "workspace")
        write_params(workspace.params_file, {"extract.weights": "random"})
        keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
        write_manifest(
            workspace.manifest_file,
            [
                ImageRow(f"{key}.png", ("cat", "dog")[n % 2], "train", "", key, 1, 1, 1, "ok", "")
                for n, key in enumerate(keys)
            ],
        )
        store = FeatureStore.create(workspace.store_folder, Extraction.of(workspace).identity)
        features = np.zeros((SHARD_ROWS, DIMENSION), np.float16)
        with store.writing():
            for start in range(0, count, SHARD_ROWS):
                part = [RowKey(key) for key in keys[start : start + SHARD_ROWS]]
                store.add(part, features[: len(part)], {})
        times = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            _run("extract", workspace)
            times.append(time.perf_counter() - started)
    click.echo(f"{count} rows, nothing new: {statistics.median(times[1:]):.2f} s, median of {rounds} runs")


def _peaks(command: str, workspace: Workspace) -> tuple[int, int]:
    """Peak resident bytes of a command, and of the largest of its workers."""
    script = (
        "import resource, sys; from pipeline.cli import cli\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "print('peaks', *(resource.getrusage(who).ru_maxrss\n"
        "      for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--root", str(workspace.root), command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = re.search(r"^peaks (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert found
    unit = 1 if sys.platform == "darwin" else 1024
    return int(found[1]) * unit, int(found[2]) * unit


def _run(command: str, workspace: Workspace) -> None:
    pipeline = Path(sys.executable).parent / "pipeline"
    subprocess.run([pipeline, "--root", workspace.root, command], check=True, stdout=subprocess.DEVNULL)


def _photos(source: Path, folder: Path, count: int, copies: int = 1) -> Path:
    """Copy `count` images, the same number of each class, each so often."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    listed = [sorted(path.iterdir()) for path in classes]
    chosen = [image for images in zip(*listed, strict=False) for image in images][:count]
    if len(chosen) < count:
        raise click.UsageError(f"{source}: {len(chosen)} images in classes of one size, expected {count}")
    for image in chosen:
        (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
        for copy in range(copies):  # what stands behind the end of a JPEG is read by no decoder
            content = image.read_bytes() + copy.to_bytes(4, "big")
            (folder / image.parent.name / f"{copy}-{image.name}").write_bytes(content)
    return folder


def _workspace(root: Path, photos: Path, precision: str) -> Workspace:
    create_workspace(root, str(photos))
    write_params(root / "params.yaml", {"extract.weights": "random", "extract.precision": precision})
    workspace = Workspace(root)
    prepare(workspace)
    return workspace


def _rate(images: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


def _say_where(device: str) -> None:
    processor = None
    if device == "cuda":
        import torch

        processor = torch.cuda.get_device_name()
    click.echo(described("torch", processor=processor))


if __name__ == "__main__":
    main()
