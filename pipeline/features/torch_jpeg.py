"""JPEGs decoded and resized on an NVIDIA GPU, where a processor's cores cannot feed the network.

Owns the GPU's part: nvJPEG by way of torchvision, and resizing with the geometry of
`pipeline.features.transforms`. What the pixels are called in the identity is not its business.
"""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.dataset.verdicts import Verdict
from pipeline.errors import DeviceError
from pipeline.features.decoder import Decoded, decoded, decoded_answer
from pipeline.features.torch_backbone import choose_device
from pipeline.features.transforms import corner_of, resized_size
from pipeline.params import ExtractParams
from pipeline.views import CENTER, View
from pipeline.workers import TIMEOUT, Answer, ask

# Images decoded at once; of more, a batch is hardly faster (30,000 and 38,000 a second for 32 and 400).
_AT_ONCE = 64
# EXIF orientation to what makes an image upright: whether rows and columns change places, and along which
# axes it is mirrored after that.
_UPRIGHT: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}

Asked = tuple[Path, Mapping[str, Any]]


class JpegDecoder:
    """Decode image files as `pipeline.features.decoder.decoded` does, JPEGs on a GPU.

    Parameters
    ----------
    params : ExtractParams
        Of these, `resize` and `image_size`.
    device : {"auto", "cuda"}

    Raises
    ------
    DeviceError
        There is no NVIDIA GPU, or torchvision was built without nvJPEG.
    """

    def __init__(self, params: ExtractParams, device: str) -> None:
        self._params = params
        self._device = _nvidia_gpu(device)

    def decoded(
        self,
        files: Iterable[Path],
        *,
        workers: int,
        ahead: int,
        timeout: float = TIMEOUT,
        views: Iterable[Mapping[str, Any]] | None = None,
    ) -> Generator[Decoded, None, None]:
        """Read and hash files in parallel, and decode them; see there.

        ``known`` in `views` is the SHA-256 of bytes that Pillow has decoded before. Others it decodes now,
        too, for a GPU makes something of damaged ones.

        Raises
        ------
        DeviceError
            The GPU has not the memory for an image.
        """
        asked = zip(files, itertools.repeat({}) if views is None else views, strict=False)
        shape = {"resize": self._params.resize, "image_size": self._params.image_size}
        to_ask, to_keep = itertools.tee(asked)
        requests = ({"file": os.fspath(file), **shape, **view} for file, view in to_ask)
        reader = "pipeline.features.jpeg_reader"
        answers = ask(reader, requests, workers=workers, ahead=ahead, timeout=timeout)
        try:
            while group := list(itertools.islice(answers, _AT_ONCE)):
                yield from self._seen(list(itertools.islice(to_keep, len(group))), group, timeout)
        finally:
            answers.close()

    def _seen(self, asked: Sequence[Asked], answers: Sequence[Answer], timeout: float) -> Iterator[Decoded]:
        """Decode what was handed on as a JPEG; the rest comes as pixels, or with a reason."""
        wanted = [view.get("views", (CENTER,)) for _, view in asked]
        jpegs = [place for place, answer in enumerate(answers) if "orientation" in answer.values]
        images = dict(zip(jpegs, self._images([answers[place].data for place in jpegs]), strict=True))
        squares = {
            place: self._views(_upright(image, answers[place].values.pop("orientation")), wanted[place])
            for place, image in images.items()
            if image is not None
        }
        on_host = _brought_back([*squares.values()])
        for place, ((file, view), answer) in enumerate(zip(asked, answers, strict=True)):
            if place in squares:
                yield Decoded(Verdict(**answer.values), next(on_host).numpy())
            elif place in images:  # a kind of JPEG that nvJPEG does not know
                yield from decoded([file], self._params, workers=1, ahead=1, timeout=timeout, views=[view])
            else:
                yield decoded_answer(answer, self._params.image_size)

    def _images(self, jpegs: Sequence[bytes | bytearray]) -> list[torch.Tensor | None]:
        """Decode JPEGs; None for those that the GPU's decoder refuses."""
        if not jpegs:
            return []
        try:
            return [*_decode(jpegs, self._device)]
        except torch.OutOfMemoryError as error:
            if len(jpegs) == 1:
                raise _too_large(self._device) from error
        except RuntimeError:
            if len(jpegs) == 1:
                return [None]
        half = len(jpegs) // 2
        return self._images(jpegs[:half]) + self._images(jpegs[half:])

    def _views(self, image: torch.Tensor, views: Sequence[View]) -> torch.Tensor:
        """Resize an image, (3, height, width), and cut its views, (v, image_size, image_size, 3), uint8."""
        size = self._params.image_size
        width, height = resized_size(image.shape[2], image.shape[1], self._params.resize)
        try:
            [resized] = torch.nn.functional.interpolate(
                image[None].to(torch.float32), (height, width), mode="bilinear", antialias=True
            )
        except torch.OutOfMemoryError as error:
            raise _too_large(self._device) from error
        resized = resized.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)
        squares = []
        for view in views:
            left, top = corner_of(view, width, height, size)
            square = resized[top : top + size, left : left + size]
            squares.append(square.flip(1) if view == "hflip" else square)
        return torch.stack(squares)


def _nvidia_gpu(name: str) -> torch.device:
    """Return the device, if it can decode JPEGs."""
    device = choose_device(name)
    if device.type != "cuda" or not torch.version.cuda:
        raise DeviceError(
            "extract.decoder is nvjpeg, and there is no NVIDIA GPU here. Set it to pillow in params.yaml."
        )
    smallest = io.BytesIO()
    Image.new("RGB", (8, 8)).save(smallest, "JPEG")
    try:
        _decode([smallest.getvalue()], device)
    except RuntimeError as error:
        raise DeviceError(
            f"extract.decoder is nvjpeg, which this installation of torchvision cannot use: "
            f"{str(error).splitlines()[0]}. Set it to pillow."
        ) from error
    return device


def _decode(jpegs: Sequence[bytes | bytearray], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs to RGB, shape (3, height, width), on the device."""
    data = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision 0.29 says that TorchCodec will take over one day
        images: list[torch.Tensor] = decode_jpeg(data, ImageReadMode.RGB, device)
    return images


def _brought_back(stacks: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Copy tensors to the CPU, in one piece."""
    if stacks:
        yield from torch.split(torch.cat([*stacks]).cpu(), [len(stack) for stack in stacks])


def _upright(image: torch.Tensor, orientation: int) -> torch.Tensor:
    turned, mirrored = _UPRIGHT.get(orientation, (False, ()))
    return (image.transpose(1, 2) if turned else image).flip(mirrored)


def _too_large(device: torch.device) -> DeviceError:
    return DeviceError(f"{device} ran out of memory with a single image: free some.")
