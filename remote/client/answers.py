"""What an answer means: a message, or one of the protocol's errors. Pure.

Whatever is no answer of a Satchel server (a captive portal, a proxy's page) counts as Unreachable, never as "not
found" or "empty".
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from remote.protocol.errors import BY_CODE, Busy, NotAllowed, NotFound, RemoteError, ServerFault, Unreachable
from remote.protocol.messages import CONTENT_TYPE, Problem

Message = TypeVar("Message")

RETRY_SECONDS_MAX = 300.0
_PROBLEM = msgspec.msgpack.Decoder(Problem)


def message_of(
    status: int, headers: Mapping[str, str], body: bytes, decoder: msgspec.msgpack.Decoder[Message]
) -> Message:
    """The message in an answer of the server; raises the RemoteError that it is otherwise."""
    if not is_protocol(headers):
        raise _foreign(status, headers)
    if not 200 <= status < 300:
        raise problem_of(status, headers, body)
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ServerFault(f"The server's answer cannot be read: {error}") from error


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> RemoteError:
    """The error that an answer which is no success stands for."""
    if not is_protocol(headers):
        return _foreign(status, headers)
    try:
        problem = _PROBLEM.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ServerFault(f"The server answered {status} without saying why.")
    family = BY_CODE.get(problem.code, ServerFault)
    if issubclass(family, Busy):
        return family(problem.message, min(RETRY_SECONDS_MAX, max(0.0, problem.retry_after_seconds)))
    return family(problem.message)


def object_fault(status: int, headers: Mapping[str, str], body: bytes) -> RemoteError:
    """The error that a refused GET or PUT of a signed URL stands for, whoever keeps the objects."""
    if is_protocol(headers):
        return problem_of(status, headers, body)
    if status in {401, 403}:
        return NotAllowed(f"The object store refused a signed URL ({status}).")
    if status in {404, 410}:
        return NotFound(f"The object store does not have a chunk ({status}).")
    return _foreign(status, headers)


def is_protocol(headers: Mapping[str, str]) -> bool:
    """Whether this is a message of the protocol at all."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == CONTENT_TYPE


def _foreign(status: int, headers: Mapping[str, str]) -> RemoteError:
    if status in {429, 503}:
        return Busy(f"The server is not ready ({status}).", _retry_after(headers))
    if status >= 500 and status not in {502, 504}:
        return ServerFault(f"The server failed ({status}).")
    return Unreachable(
        f"Something that is no Satchel server answered ({status}): a sign-in page of the network, or a proxy?"
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return min(RETRY_SECONDS_MAX, float(text)) if text.isascii() and text.isdigit() else 1.0
