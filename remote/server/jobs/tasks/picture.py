"""Picture: what a file looks like, small: work(content, [how, sizes]) is one PNG for each size, each behind its length.

How: "image", or "pdf" (its first page). Sizes: pixels of the longer side, by commas; nothing is made larger.
"""

import copy  # noqa: F401 - GIFs need it, and later it could not be loaded
import io
from typing import IO, Final, cast

import pypdfium2

# Each format is a module, and later none could be loaded.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from remote.server.jobs.tasks.small import pngs

FORMATS: Final = ("BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_PLUGINS: Final = (
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
PIXELS_MAX: Final = 120_000_000
"""Of a picture that is opened: four bytes of memory each, and twice that for a moment."""
_PAGE_POINTS_MIN: Final = 1.0


class TooManyPixels(Exception):
    """The picture would need more memory than it may have."""


def work(content: io.RawIOBase, arguments: list[str]) -> bytes:
    """The pictures."""
    how, told = arguments
    sizes = [int(size) for size in told.split(",")]
    picture = _READERS[how](content, max(sizes))
    return pngs(picture, sizes)


def _image(content: io.RawIOBase, size: int) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # an own bound, which is not a warning
    # A raw file can be read as any other that is open.
    picture = Image.open(cast(IO[bytes], content), formats=FORMATS)
    if picture.width * picture.height > PIXELS_MAX:
        raise TooManyPixels(f"{picture.width} x {picture.height} pixels are more than {PIXELS_MAX:,}")
    # A JPEG can be read at an eighth of its size: less memory, and much less time.
    picture.draft(None, (2 * size, 2 * size))
    # In place, and converted only where it must be: each copy of a large picture is half of the memory that there is.
    ImageOps.exif_transpose(picture, in_place=True)
    has_alpha = picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _pdf(content: io.RawIOBase, size: int) -> Image.Image:
    page = pypdfium2.PdfDocument(content.read() or b"")[0]
    longer = max(*page.get_size(), _PAGE_POINTS_MIN)
    # It has no types.
    return cast(Image.Image, page.render(scale=size / longer).to_pil()).convert("RGB")


_READERS: Final = {"image": _image, "pdf": _pdf}
