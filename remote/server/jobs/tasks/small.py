"""Small: how pictures go out of a confined process: one PNG for each size, each behind its length."""

import io
import struct
from collections.abc import Sequence
from typing import Final

from PIL import Image, PngImagePlugin  # noqa: F401 - the format is a module, and later it could not be loaded

LENGTH: Final = struct.Struct(">I")


def pngs(picture: Image.Image, sizes: Sequence[int]) -> bytes:
    """The picture at each size, in pixels of the longer side; nothing is made larger."""
    made = [_png(picture, size) for size in sizes]
    return b"".join(LENGTH.pack(len(png)) + png for png in made)


def _png(picture: Image.Image, size: int) -> bytes:
    share = min(1.0, size / max(picture.size))
    shape = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    # The copy, of a small one: what stands for an open file wants more than this process may to save itself.
    small = picture.resize(shape, Image.Resampling.LANCZOS, reducing_gap=2.0) if share < 1 else picture.copy()
    body = io.BytesIO()
    small.save(body, "PNG")
    return body.getvalue()
