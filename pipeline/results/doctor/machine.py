"""What this machine has: a device, room, programs.

Owns the looking and the limits. Torch, whose import takes seconds, is asked only where there may be a GPU,
or where nothing else knows the processor.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

from pipeline.architectures import VGG16
from pipeline.features.backbone import CPU_BFLOAT16, chosen_device, is_openvino_fast
from pipeline.heads.memory import free_memory, said_size
from pipeline.params import ExtractParams
from pipeline.results.doctor.check import Check
from pipeline.results.doctor.packages import DISTRIBUTION
from pipeline.worker import MAX_MEMORY

# What a decoder may take, and as much for the network.
_LITTLE_MEMORY = 2 * MAX_MEMORY
#: To be left on the disk for models, reports and whatever else is written there.
LITTLE_DISK = 1_000_000_000

_NVIDIA = "/dev/nvidiactl"


def device() -> Check:
    """Where the network runs, and whether 16 bits are native there."""
    kind = chosen_device("auto")
    if kind == "cuda":
        import torch

        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Check("device", "ok", f"cuda: {', '.join(names)}; {_said_native(native, 'float16')}")
    if kind == "mps":
        return Check("device", "ok", "mps; half is computed in float32")
    native = _cpu_has_bfloat16()
    found = f"cpu: {_processors()} of {os.cpu_count()} processors; {_said_native(native, 'float32')}"
    if Path(_NVIDIA).exists():
        remedy = (
            "Install a build of torch for CUDA (pytorch.org tells which), or look at the driver: nvidia-smi"
        )
        return Check("device", "warn", f"{found}; torch cannot use the NVIDIA GPU that is there", remedy)
    return Check("device", "ok", found)


def backend(params: ExtractParams) -> Check:
    """Say what ``--backend auto`` takes."""
    if params.precision == "int8":
        try:
            return Check("backend", "ok", f"openvino {metadata.version('openvino')}, for precision int8")
        except metadata.PackageNotFoundError:
            found = "extract.precision is int8, and OpenVINO, which alone computes it, is not installed"
            remedy = f"pip install '{DISTRIBUTION}[openvino]', in a checkout '.[openvino]'"
            return Check("backend", "fail", found, remedy)
    fast = params.backbone == VGG16 and is_openvino_fast() and chosen_device("auto") == "cpu"
    name = "openvino" if fast else "torch"
    return Check("backend", "ok", f"{name} {metadata.version(name)}")


def memory() -> Check:
    """How much memory is free."""
    free = free_memory()
    found = f"{said_size(free)} free"
    if free < _LITTLE_MEMORY:
        remedy = f"End other programs until {said_size(_LITTLE_MEMORY)} are free"
        return Check("memory", "warn", found, remedy)
    return Check("memory", "ok", found)


def disk(folder: Path, needed: int = 0) -> Check:
    """How much room there is on the disk of a folder, which need not exist.

    Parameters
    ----------
    folder : Path
    needed : int, default 0
        Bytes that are going to be written.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    found = f"{said_size(free)} free in {there}"
    if needed:
        found += f"; the features that are missing take {said_size(needed)}"
    if free < needed:
        return Check("disk", "fail", found, "Free some space, or move the workspace")
    if free < needed + LITTLE_DISK:
        return Check("disk", "warn", found, "Free some space")
    return Check("disk", "ok", found)


def programs() -> Check:
    """Whether a shell finds the programs that ``dvc repro`` starts."""
    absent = [name for name in ("dvc", "pipeline") if shutil.which(name) is None]
    if absent:
        return Check(
            "programs",
            "warn",
            f"{' and '.join(absent)} not on PATH, where `dvc repro` and its stages look for them",
            "Activate the environment, or put its bin folder on PATH",
        )
    return Check("programs", "ok", f"{shutil.which('dvc')}, {shutil.which('pipeline')}")


def _processors() -> int:
    """How many processors this process may use; macOS does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu_has_bfloat16() -> bool:
    try:
        return bool(CPU_BFLOAT16 & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:  # no Linux
        import torch

        return any(torch.cpu.get_capabilities().get(name, False) for name in CPU_BFLOAT16)


def _said_native(native: bool, instead: str) -> str:
    return "native bfloat16" if native else f"no native bfloat16: half is computed in {instead}"
