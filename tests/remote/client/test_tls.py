"""TLS: with a certificate that this machine trusts everything works, with any other nothing is sent."""

import datetime as dt
import ipaddress
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from remote.client.patience import Patience
from remote.client.service import connect, health, login
from remote.protocol.errors import Unreachable
from remote.protocol.messages import ChunkPart
from remote.protocol.sealing import seal

pytestmark = pytest.mark.anyio


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


# Any: conftest.Server, which cannot be imported from here.
RunServer = Callable[..., AbstractContextManager[Any]]


async def test_a_trusted_server_is_used_and_another_is_not(
    run_server: RunServer, tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_server(tmp_path / "server", "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])) as server:
        assert server.url.startswith("https://")
        with pytest.raises(Unreachable, match=r"does not trust the certificate .*self-signed"):
            await health(server.url)
        with pytest.raises(Unreachable):
            await login(server.url, "anna", server.password, "desk")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        await health(server.url)
        answer = await login(server.url, "anna", server.password, "desk")
        async with connect(server.url, answer.token, patience=Patience(60.0)) as service:
            chunks = [seal(os.urandom(length), bytes(32)) for length in (100, 900_000, 1_000_000, 1_100_000)]
            await service.send_chunks(answer.home, {chunk.id: chunk.data for chunk in chunks})
            for _ in range(2):
                parts = await service.get_parts(answer.home, [ChunkPart(chunk.id) for chunk in chunks])
                assert parts == [chunk.data for chunk in chunks]


async def test_who_speaks_plain_http_to_it_is_asked_for_https(
    run_server: RunServer, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    keys = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    with run_server(tmp_path / "server", *keys) as server, pytest.raises(Unreachable, match="Does it speak https"):
        await login(server.url.replace("https://", "http://"), "ann", "password", "desk")
