"""Sending: a body of many large chunks becomes objects of the local store, all or, when it is cut, those that came."""

import asyncio
from collections.abc import AsyncIterator

from remote.protocol.errors import BadRequest
from remote.protocol.ids import SpaceId
from remote.protocol.messages import PutAnswer
from remote.server.http.bodies import gathered
from remote.server.instance import Instance
from remote.server.objects.receiving import Receiving


async def take_chunks(instance: Instance, space: SpaceId, pieces: AsyncIterator[bytes]) -> PutAnswer:
    """Stores the chunks of a body and lets the space read them, all durable on return.

    Of a body that is cut, chunks that came whole are kept: on a bad line, each brings the sender further. Of one that
    is refused, nothing is.
    """
    with Receiving(instance.objects) as receiving:
        bodies = gathered(pieces)
        cut: BadRequest | None = None
        while True:
            try:
                together = await anext(bodies, None)
            except BadRequest as error:
                cut = error
                break
            if together is None:
                break
            await asyncio.to_thread(receiving.add, together)
        if cut is None and not receiving.is_at_an_end:
            raise BadRequest("The body ends in the middle of a chunk.")
        places = await asyncio.to_thread(receiving.keep)
        await instance.answers.objects_received(space, places)
        if cut is not None:
            raise cut
        return PutAnswer(tuple(place.id for place in places))
