"""Text: the different words of a document, one in each line: work(content, [how, most words]).

How: "plain" (any encoding that is ASCII at heart, or UTF-16), "pdf", or "office" (a zip archive with XML in it: Office
Open XML, OpenDocument, EPUB).
"""

import codecs
import ctypes
import io
import re
import zipfile
from typing import IO, Final, cast
from xml.parsers import expat

import pypdfium2
import pypdfium2.raw as pdfium

from remote.server.search.words import NotText, distinct_words, plain_text

TEXT_MAX: Final = 8 << 20
"""Characters of a document that are looked at."""
_PAGES_MAX: Final = 2_000
_PARTS_MAX: Final = 500
_PART_BYTES_MAX: Final = 64 << 20
"""Of all parts of an archive together, unpacked: what unpacks to more is cut off there."""
_PIECE: Final = 1 << 16
_PARTS: Final = re.compile(
    r"word/(document|header\d*|footer\d*|footnotes|endnotes|comments)\.xml|xl/sharedStrings\.xml"
    r"|xl/worksheets/sheet\d+\.xml|ppt/(slides|notesSlides)/[^/]+\.xml|docProps/core\.xml|content\.xml|meta\.xml"
    r"|.+\.x?html?"
)
# Elements after which a word ends, by the end of their names; others (a run, a span) may stand in the midst of one.
_ENDS: Final = frozenset(
    {
        *("p", "h", "br", "tab", "cr", "tr", "tc", "td", "th", "si", "c", "v", "row", "li", "div", "s", "list-item"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "title", "subject", "creator", "keywords", "description"),
        *("t-cell", "table-cell", "line-break"),
    }
)
for _encoding in ("utf-16", "utf-16-le", "latin-1", "cp437"):
    # Later they could not be loaded; names in old archives are in the last one.
    codecs.lookup(_encoding)


def work(content: io.RawIOBase, arguments: list[str]) -> bytes:
    """The words."""
    how, most = arguments
    text = _READERS[how](content)
    return "\n".join(distinct_words(text, int(most))).encode()


def _plain(content: io.RawIOBase) -> str:
    data = content.read(TEXT_MAX) or b""
    return plain_text(data)


def _pdf(content: io.RawIOBase) -> str:
    document = pypdfium2.PdfDocument(content.read() or b"")
    found: list[str] = []
    size = 0
    for at in range(min(len(document), _PAGES_MAX)):
        page = document[at]
        text = page.get_textpage()
        # With a bound; get_text_range has none.
        count = min(pdfium.FPDFText_CountChars(text), TEXT_MAX - size)
        if count > 0:
            buffer = ctypes.create_string_buffer(2 * (count + 1))
            pdfium.FPDFText_GetText(text, 0, count, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)))
            found.append(buffer.raw[: 2 * count].decode("utf-16-le", "replace"))
            size += count
        text.close()
        page.close()
        if size >= TEXT_MAX:
            break
    # A hyphen at the end of a line, as PDFium tells it.
    return "\n".join(found).replace("\ufffe", "").replace("\x02", "").replace("\xad", "")


def _office(content: io.RawIOBase) -> str:
    found: list[str] = []
    # A raw file can be read as any other that is open.
    with zipfile.ZipFile(cast(IO[bytes], content)) as archive:
        left = _PART_BYTES_MAX
        parts = [each for each in archive.infolist() if _PARTS.fullmatch(each.filename)][:_PARTS_MAX]
        for part in parts:
            reader = _Xml(TEXT_MAX - sum(map(len, found)))
            with archive.open(part) as unpacked:
                while left > 0 and (piece := unpacked.read(min(_PIECE, left))):
                    left -= len(piece)
                    if not reader.take(piece):
                        break
            found.append(reader.text())
            if left <= 0 or sum(map(len, found)) >= TEXT_MAX:
                break
    if not parts:
        raise NotText("it holds no part with text")
    return "\n".join(found)


class _Xml:
    """The text in XML; entities that it declares itself are left out, as what they stand for may be endless."""

    def __init__(self, most: int) -> None:
        self._found: list[str] = []
        self._left = most
        self._parser = expat.ParserCreate(namespace_separator=None)
        self._parser.buffer_text = True
        self._parser.CharacterDataHandler = self._characters
        self._parser.EndElementHandler = self._end
        self._parser.StartElementHandler = self._start
        self._parser.EntityDeclHandler = self._entity

    def take(self, piece: bytes) -> bool:
        """Reads on; whether more may follow. What is not well formed ends it, and what was read before counts."""
        try:
            self._parser.Parse(piece, False)
        except (expat.ExpatError, _Enough):
            return False
        return True

    def text(self) -> str:
        """What was found."""
        return "".join(self._found)

    def _characters(self, text: str) -> None:
        self._found.append(text[: self._left])
        self._left -= len(text)
        if self._left <= 0:
            raise _Enough

    def _start(self, name: str, _: dict[str, str]) -> None:
        if name.rpartition(":")[2] in {"tab", "br", "s", "line-break", "cr"}:
            self._found.append(" ")

    def _end(self, name: str) -> None:
        if name.rpartition(":")[2] in _ENDS:
            self._found.append("\n")

    def _entity(self, *_: object) -> None:
        raise _Enough


class _Enough(Exception):
    """No more is read."""


_READERS: Final = {"plain": _plain, "pdf": _pdf, "office": _office}
