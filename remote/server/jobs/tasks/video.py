"""Video: what a film looks like, small: work(content, [bytes, sizes]) is one PNG for each size, each behind its length.

One picture of it: about a tenth in, or further on where that is black. What it asks for of the content is little: the
ends of the file, and what is around that place.
"""

import io
from typing import Final, cast

import av
import av.subtitles.stream  # av loads it with the first file, and later it could not be
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageStat

from remote.server.jobs.tasks.asking import PIECE, Asked
from remote.server.jobs.tasks.small import pngs

FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""Of FFmpeg's, which has hundreds, and some that name other files to be opened."""
CODECS: Final = (
    "h264,hevc,libdav1d,av1,vp8,vp9,mpeg4,mpeg1video,mpeg2video,mjpeg,theora,h263,flv,msmpeg4v2,msmpeg4,wmv1,wmv2,wmv3,"
    "vc1,prores,dvvideo,ffv1,rawvideo"
)
PIXELS_MAX: Final = 40_000_000
"""Of one frame: 8K has 33 million."""
PLACES: Final = (0.1, 0.2, 0.35, 0.5, 0.0)
"""Shares of its time at which it is looked for a picture, until one is not black."""
_FRAMES_MAX: Final = 40
"""That are decoded to come from a frame that stands by itself to the place that is meant."""
_PACKETS_MAX: Final = 2_000
_BLACK: Final = 20.0
"""Of 255: the mean of a picture in grey, up to which it is black."""
_ASPECTS: Final = (0.2, 5.0)
"""Of a pixel, width by height: others are an error of whoever made it."""


class NoPicture(Exception):
    """There is no picture in it that can be read."""


def work(content: io.RawIOBase, arguments: list[str]) -> bytes:
    """The pictures."""
    length, told = arguments
    sizes = [int(size) for size in told.split(",")]
    asked = Asked(content.fileno(), int(length))
    options = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "max_pixels": str(PIXELS_MAX)}
    try:
        film = av.open(asked, "r", options=options, metadata_errors="replace", buffer_size=PIECE)
    except av.InvalidDataError as error:
        raise NoPicture("it is no video, or not a whole one") from error
    with film:
        stream = film.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise NoPicture("it has no pictures")
        if stream.codec_context.name not in CODECS.split(","):
            raise NoPicture(f"pictures of the kind {stream.codec_context.name} are not read here")
        # What was said above is for what looks at the file, and does not reach what decodes it.
        stream.codec_context.options = {"codec_whitelist": CODECS, "max_pixels": str(PIXELS_MAX)}
        # No thread can be started here.
        stream.codec_context.thread_count = 1
        return pngs(_picture(film, stream, max(sizes)), sizes)


def _picture(film: InputContainer, stream: VideoStream, size: int) -> Image.Image:
    """One that is not black, if there is one at the places that are looked at; else the first that was found."""
    black: Image.Image | None = None
    told: Exception = NoPicture("none of its pictures can be read")
    for place in PLACES:
        try:
            found = _seen(_frame(film, stream, place), stream, size)
        except av.MemoryError:
            raise
        except (av.FFmpegError, NoPicture) as error:
            told = error
            continue
        if ImageStat.Stat(found.convert("L")).mean[0] > _BLACK:
            return found
        black = black or found
    if black is None:
        raise told
    return black


def _frame(film: InputContainer, stream: VideoStream, place: float) -> VideoFrame:
    """The frame there, or one shortly before; raises NoPicture and FFmpegError."""
    begin_seconds, meant_seconds = film.start_time / av.time_base, (film.duration or 0) / av.time_base * place
    film.seek(int((begin_seconds + meant_seconds) * av.time_base))
    stream.codec_context.flush_buffers()
    found: VideoFrame | None = None
    decoded = 0
    for read, packet in enumerate(film.demux(stream)):
        for frame in packet.decode():
            assert isinstance(frame, VideoFrame), "packets of a stream of pictures have nothing else"
            found = frame
            decoded += 1
            if found.pts is None or found.time - begin_seconds >= meant_seconds or decoded >= _FRAMES_MAX:
                return found
        if read >= _PACKETS_MAX:
            break
    if found is None:
        raise NoPicture("none of its pictures can be read")
    return found


def _seen(frame: VideoFrame, stream: VideoStream, size: int) -> Image.Image:
    """The frame as it is meant to be looked at, turned and stretched, no larger than is needed."""
    aspect = stream.sample_aspect_ratio
    wide = float(aspect) if aspect is not None and _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0
    # Wider pixels make it wider, narrow ones higher: so nothing that was taken is thrown away.
    width, height = frame.width * max(1.0, wide), frame.height * max(1.0, 1 / wide)
    share = min(1.0, size / max(width, height))
    picture = frame.to_image(width=max(1, round(width * share)), height=max(1, round(height * share)), threads=1)  # type: ignore[no-untyped-call]
    return cast(Image.Image, picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)
