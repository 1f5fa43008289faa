"""Sending: a body of many large chunks becomes objects of the local store, all or, when it is cut, those that came."""

import asyncio

from remote.protocol.errors import BadRequest, TooLarge
from remote.protocol.ids import SpaceId
from remote.protocol.messages import SEND_BODY_MAX, PutAnswer
from remote.server.http.bodies import STALL_SECONDS, announced_length, body_pieces, gathered
from remote.server.http.connections import lent_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.objects.receiving import Receiving


async def take_chunks(instance: Instance, space: SpaceId, request: AnyRequest) -> PutAnswer:
    """Stores the chunks of a body and lets the space read them, all durable on return.

    Of a body that is cut, chunks that came whole are kept: on a bad line, each brings the sender further. Of one that
    is refused, nothing is.
    """
    with Receiving(instance.objects) as receiving:
        cut = await _receive(receiving, request)
        if cut is None and not receiving.is_at_an_end:
            raise BadRequest("The body ends in the middle of a chunk.")
        places = await asyncio.to_thread(receiving.keep)
        await instance.answers.objects_received(space, places)
        if cut is not None:
            raise cut
        return PutAnswer(tuple(place.id for place in places))


async def _receive(receiving: Receiving, request: AnyRequest) -> BadRequest | None:
    """Has the body received, by a thread where the connection can be lent to it; what to say when it was cut."""
    lent, size = lent_of(request.scope), announced_length(request)
    if lent is None or size is None:
        bodies = gathered(body_pieces(request, SEND_BODY_MAX))
        while True:
            try:
                together = await anext(bodies, None)
            except BadRequest as error:
                return error
            if together is None:
                return None
            await asyncio.to_thread(receiving.add, together)
    if size > SEND_BODY_MAX:
        raise TooLarge(f"The body has {size} bytes; at most {SEND_BODY_MAX} are allowed here.")
    try:
        with lent.inlet(size) as inlet:
            await inlet.take(lambda piece: receiving.add([piece]), asyncio.to_thread, STALL_SECONDS)
    except ConnectionError:
        return BadRequest("The connection ended in the middle of the body.")
    except TimeoutError:
        return BadRequest(f"Nothing of the body arrived for {STALL_SECONDS} seconds.")
    return None
