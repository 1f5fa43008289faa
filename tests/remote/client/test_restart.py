"""A server that goes away and comes back under a service that stays."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from remote.client.patience import Patience
from remote.client.service import connect
from remote.protocol.errors import Unreachable
from remote.protocol.messages import ChunkPart
from remote.protocol.sealing import seal
from tests.ports import port_of_its_own

pytestmark = pytest.mark.anyio

# Any: conftest.Server, which cannot be imported from here.
RunServer = Callable[..., AbstractContextManager[Any]]


async def test_a_service_outlives_the_server(run_server: RunServer, tmp_path: Path) -> None:
    with port_of_its_own() as port:
        await outlive(run_server, tmp_path, f"127.0.0.1:{port}")


async def outlive(run_server: RunServer, tmp_path: Path, address: str) -> None:
    with run_server(tmp_path, "--listen", address) as server:
        answer = await server.sign_in()
    chunks = [seal(os.urandom(length), bytes(32)) for length in (10, 400_000, 500_000)]
    parts = [ChunkPart(chunk.id) for chunk in chunks]
    patience = Patience(60.0, first_pause_seconds=0.001)
    async with connect(server.url, answer.token, patience=patience) as service:
        with pytest.raises(Unreachable):
            await service.spaces()
        for _ in range(2):
            with run_server(tmp_path, "--listen", address):
                assert (await service.spaces()).spaces[0].space == answer.home
                await service.send_chunks(answer.home, {chunk.id: chunk.data for chunk in chunks})
                assert await service.get_parts(answer.home, parts) == [chunk.data for chunk in chunks]
            with pytest.raises(Unreachable):
                await service.spaces()
            with pytest.raises(Unreachable):
                await service.get_parts(answer.home, parts)
