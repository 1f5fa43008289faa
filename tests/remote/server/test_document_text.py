"""The text of documents, as confined processes read it, and what they do with documents that mean harm."""

import io
import zipfile
import zlib

import pytest

from remote.server.jobs.confined import Confined, Limits, Refused, TooMuch, Unreadable


def words(data: bytes, how: str, most: int = 10_000, limits: Limits | None = None) -> list[str]:
    return Confined(limits).run("text", [data], how, str(most)).decode().split("\n")


def archive(**parts: str) -> bytes:
    """A zip archive; __ in a name stands for a slash."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in parts.items():
            made.writestr(f"{name.replace('__', '/')}.xml", text)
    return file.getvalue()


def pdf(text: str, *, is_packed: bool = True) -> bytes:
    """A PDF of one page."""
    drawn = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
    stream = zlib.compress(drawn) if is_packed else drawn
    packed = b"/Filter /FlateDecode " if is_packed else b""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< %s/Length %d >>\nstream\n%s\nendstream" % (packed, len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    made = bytearray(b"%PDF-1.4\n")
    places = []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)
    return bytes(made)


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def test_plain_text_in_several_encodings() -> None:
    text = "Grüße aus Köln, 東京 too"
    wanted = ["grusse", "aus", "koln", "東京", "too"]
    assert words(text.encode(), "plain") == wanted
    assert words(text.encode("utf-16"), "plain") == wanted
    assert words("Grüße aus Köln".encode("latin-1"), "plain") == wanted[:3]
    with pytest.raises(Unreadable, match="no text"):
        words(b"\x7fELF\0\0\0", "plain")


def test_word_documents() -> None:
    # A word may be in two runs, for one half is bold; paragraphs and cells end words.
    body = "<w:p><w:r><w:t>Quar</w:t></w:r><w:r><w:t>terly</w:t></w:r></w:p><w:p><w:r><w:t>report</w:t></w:r></w:p>"
    document = f"<w:document {W}><w:body>{body}</w:body></w:document>"
    header = f"<w:hdr {W}><w:p><w:r><w:t>confidential</w:t></w:r></w:p></w:hdr>"
    data = archive(word__document=document, word__header1=header, word__settings="<x>hidden</x>")
    assert set(words(data, "office")) == {"quarterly", "report", "confidential"}


def test_sheets_slides_and_open_documents() -> None:
    sheet = archive(xl__sharedStrings="<sst><si><t>Revenue</t></si><si><t>Costs</t></si></sst>")
    assert words(sheet, "office") == ["revenue", "costs"]
    slides = archive(ppt__slides__slide1="<p:sld xmlns:p='p' xmlns:a='a'><a:p><a:t>Roadmap</a:t></a:p></p:sld>")
    assert words(slides, "office") == ["roadmap"]
    odt = archive(content="<o xmlns:text='t'><text:p>Dear<text:s/>reader</text:p><text:h>Title</text:h></o>")
    assert words(odt, "office") == ["dear", "reader", "title"]


@pytest.mark.parametrize("is_packed", [True, False])
def test_pdf(is_packed: bool) -> None:
    assert words(pdf("Penguins of Madagascar", is_packed=is_packed), "pdf") == ["penguins", "of", "madagascar"]


@pytest.mark.parametrize(
    ("data", "how"), [(b"no pdf", "pdf"), (b"no zip", "office"), (archive(other="<x/>"), "office")]
)
def test_what_is_no_document_is_said(data: bytes, how: str) -> None:
    with pytest.raises(Unreadable):
        words(data, how)


def test_a_document_that_breaks_off_is_read_until_there() -> None:
    assert words(archive(content="<a>before<b>"), "office") == ["before"]


def test_the_number_of_words_is_bounded() -> None:
    assert words(" ".join(f"word{at}" for at in range(1_000)).encode(), "plain", most=10) == [
        f"word{at}" for at in range(10)
    ]


def test_bombs_are_harmless() -> None:
    """What would be gigabytes when unpacked is read as far as is allowed, or refused."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made,
        made.open("content.xml", "w", force_zip64=True) as part,
    ):
        part.write(b"<a>start ")
        for _ in range(300):
            part.write(b" " * (1 << 20))
        part.write(b" end</a>")
    assert len(file.getvalue()) < 1 << 20
    assert words(file.getvalue(), "office") == ["start"]
    laughs = "<!DOCTYPE a [<!ENTITY l 'lol'>" + "".join(
        f"<!ENTITY l{at} '{f'&l{at - 1 or str()};' * 10}'>" for at in range(1, 12)
    )
    assert words(archive(content=f"{laughs}]><a>&l11;</a>"), "office") == [""]
    nested = "<a>" * 500_000
    assert words(archive(content=f"{nested}deep"), "office") in ([""], ["deep"])
    with pytest.raises(TooMuch):
        words(b"x" * (65 << 20), "plain")
    with pytest.raises(Refused):
        words(archive(content="<a>" + "b " * 4_000_000), "office", limits=Limits(memory_bytes=64 << 20))
