"""Reading for a decoder elsewhere: JPEGs are handed on as they are, all else is decoded here.

Owns which JPEGs can be handed on. It runs in a worker (`pipeline.workers`), and may be the end of it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.dataset.examiner import read
from pipeline.dataset.images import UndecodableImage, decode, jpeg_header
from pipeline.features.decoder import answer_of
from pipeline.features.transforms import LONGEST


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Read ``request["file"]``, and hand it on, with its ``orientation``, if it is a plain JPEG.

    One whose SHA-256 is not ``request["known"]`` is decoded here first, to see that it can be: a GPU makes
    something of damaged ones.
    """
    verdict, data = read(Path(request["file"]))
    header = jpeg_header(data)
    if header is None or max(header.width, header.height) > LONGEST * min(header.width, header.height):
        return answer_of(verdict, data, request)
    if verdict.sha256 != request.get("known"):
        try:
            decode(data)
        except UndecodableImage as error:
            return asdict(replace(verdict, reason=error.reason)), b""
    seen = replace(verdict, width=header.width, height=header.height)
    return asdict(seen) | {"orientation": header.orientation}, data
