"""`satchel search`: files written through the mount are found by anybody who may read them, within seconds."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually

pytestmark = pytest.mark.mounted

SECONDS = 120.0
"""The server's machine has other things to do."""


def docx(text: str) -> bytes:
    """A word processor's file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("[Content_Types].xml", "<Types/>")
        made.writestr("word/document.xml", f"<w:document xmlns:w='w'><w:p><w:t>{text}</w:t></w:p></w:document>")
    return file.getvalue()


def pdf(text: str) -> bytes:
    """A PDF of one page."""
    stream = zlib.compress(f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode())
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    made = bytearray(b"%PDF-1.4\n")
    places = []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    start = len(made)
    made += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(made + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)


def found(device: Any, *words: str) -> list[str]:
    """Paths below the mount."""
    told = json.loads(device.must("search", *words, "--json"))
    return sorted(str(Path(one["path"]).relative_to(device.path)) for one in told["found"])


def finds(device: Any, wanted: list[str], *words: str) -> None:
    """Returns when this is what is found."""
    assert eventually(lambda: found(device, *words) == wanted, SECONDS), (words, found(device, *words))


def test_documents_are_found_by_what_they_say_and_only_by_who_may(server: Any, device: Any) -> None:
    server.add_user("bob")
    ann, bob = device("ann"), device("bob", user="bob")
    work = ann.path / "my work"
    work.mkdir()
    (work / "letter.docx").write_bytes(docx("Dear penguins of Madagascar"))
    (work / "scan.pdf").write_bytes(pdf("Invoice for Madagascar"))
    (ann.path / "notes.txt").write_text("Tickets to Madagascar, window seat")
    (bob.path / "other.txt").write_text("Madagascar is mine, says bob")
    ann.wait()
    bob.wait()
    everywhere = ["my work/letter.docx", "my work/scan.pdf", "notes.txt"]
    finds(ann, everywhere, "madagascar")
    finds(bob, ["other.txt"], "madagascar")
    assert found(ann, "pengiuns") == ["my work/letter.docx"]
    assert found(ann, "madagascr", "--type", "pdf") == ["my work/scan.pdf"]
    assert found(ann, "in:my work", "madagascar") == everywhere[:2]
    assert found(ann, "size:<100", "type:text") == ["notes.txt"]
    assert found(ann, "type:text size:<100 in:/") == ["notes.txt"], "a whole query in one argument"
    assert found(ann, "--type", "pdf") == ["my work/scan.pdf"], "no words at all"
    assert found(bob, "penguins") == []
    (ann.path / "notes.txt").rename(work / "renamed.txt")
    (work / "letter.docx").unlink()
    ann.wait()
    finds(ann, ["my work/renamed.txt", "my work/scan.pdf"], "madagascar")
    # By content it is found before its new name is in the index.
    finds(ann, ["my work/renamed.txt"], "renmaed")
    assert ann.must("search", "penguins") == "Nothing was found.\n"
    empty = ann.cli("search")
    assert (empty.returncode, "Search for what?" in empty.stderr) == (2, True)
    refused = ann.cli("search", "size:huge")
    assert (refused.returncode, "Write it like size:>10M" in refused.stderr) == (2, True)
