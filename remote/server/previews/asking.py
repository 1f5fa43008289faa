"""Asking: the preview of a file, for those who may read it; one that is not there yet is made while they wait."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from remote.protocol.account import Preview, PreviewRequest
from remote.protocol.errors import BadRequest, Busy, NotFound, RemoteError
from remote.protocol.ids import NodeId, SpaceId
from remote.server.content import Contents
from remote.server.database import past as past_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database
from remote.server.jobs.confined import Confined, NotConfined, Refused
from remote.server.jobs.following import Stopped
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.located import Located, Locator
from remote.server.previews.making import NONE, SIZES, Maker, Previews, Readable, how_of
from remote.server.previews.shelf import Shelf, Shown
from remote.server.states import encode_manifest

FOLDER: Final = "previews"
LIMIT_BYTES: Final = 2 << 30
_MAKERS: Final = 2
"""Previews that are made at a time for those who wait; each takes a process and up to 768 MiB for a moment."""
_WAITING_MAX: Final = 200


class PreviewAnswers:
    """What an instance answers about previews."""

    def __init__(self, data: Path, database: Database, keyring: Keyring, contents: Contents, locator: Locator) -> None:
        self._database = database
        self._keyring = keyring
        self._contents = contents
        self._locator = locator
        self._shelf = Shelf(data / FOLDER, LIMIT_BYTES)
        self._threads = ThreadPoolExecutor(_MAKERS, thread_name_prefix="previews")
        self._makers = [Maker(self._shelf, Confined()) for _ in range(_MAKERS)]
        self._free = list(self._makers)
        self._waiting = 0

    def job(self) -> Previews:
        """What makes the usual ones behind the commits."""
        return Previews(self._database, self._shelf)

    async def preview(self, device: Device, request: PreviewRequest) -> Preview:
        """The preview of a file as it is now; raises NotFound where there is none, and says why."""
        if request.size not in SIZES.values():
            raise BadRequest(f"There are previews of {', '.join(map(str, SIZES.values()))} pixels, none of that size.")
        found = await self._locator.by_id(
            device, NodeId(request.node), SpaceId(request.space) if request.space else None
        )
        how = how_of(found.item.name, found.item.state)
        if how is None:
            raise NotFound(
                "There is no preview of such a file: there are of videos, and of pictures and PDF of up to 64 MiB."
            )
        if self._waiting >= _WAITING_MAX:
            raise Busy("Many previews are being made: try again in a moment.", 2.0)
        self._waiting += 1
        try:
            job = partial(self._preview, found, how, request.size)
            return Preview(await asyncio.get_running_loop().run_in_executor(self._threads, job), request.size)
        finally:
            self._waiting -= 1

    def _preview(self, found: Located, how: str, size: int) -> bytes:
        content = found.item.state.content
        assert content is not None, "how_of looked"
        space, key = found.space.space, self._keyring.key(found.space)
        # Also one that was made before a virus was found.
        self._contents.check(space, content)
        content_id = key.content_id(encode_manifest(content))
        kept = self._kept(key, Shown(space, content_id, size))
        if kept is not None:
            return kept
        # As many as there are threads.
        maker = self._free.pop()
        try:
            readable = Readable(content.size, partial(self._contents.read, space, content))
            return maker.make(key, space, content_id, how, readable, [size])[0]
        except Refused as error:
            raise NotFound(f"There is no preview of it: {error}") from error
        except NotConfined as error:
            raise NotFound(f"This server makes no previews: {error}") from error
        except Stopped:
            raise Busy("The server stops: ask again when it is back.", 5.0) from None
        finally:
            self._free.append(maker)

    def _kept(self, key: SpaceKey, shown: Shown) -> bytes | None:
        sealed = self._shelf.get(shown)
        if sealed is None:
            return None
        try:
            found = key.open(sealed)
        except RemoteError:
            # A power cut left half of it.
            self._shelf.drop(shown)
            return None
        if found == NONE:
            raise NotFound("There is no preview of it: it could not be read.")
        return found

    async def sweep(self) -> int:
        """Removes previews of content that no version has any more; how many."""

        def is_needed(space: SpaceId, content_id: bytes) -> bool:
            return self._database.read_now(lambda session: past_rows.manifest(session, space, content_id) is not None)

        return await asyncio.to_thread(self._shelf.sweep, is_needed)

    def close(self) -> None:
        """Ends what is being made."""
        for maker in self._makers:
            maker.close()
        self._threads.shutdown()
