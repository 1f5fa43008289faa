"""Asking: who asks for what is being answered, for the audit log, limits and the log; empty for a command here.

It goes with the task, and with each job that the task gives to the database, so that nobody has to hand it on.
"""

import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field

from remote.protocol.ids import DeviceId, UserId

DEVICES_ONLY = ""
"""What a route needs that no app token may ask for."""
NO_USER, NO_DEVICE = UserId(0), DeviceId(0)


@dataclass
class Asking:
    """One request. `address`: of who asks, as far as it is known; `needs`: the scope that an app token needs for it.

    `user`, `user_name` and `device` are filled in when the token is known; until then they are 0 and empty.
    """

    address: str = ""
    needs: str = DEVICES_ONLY
    route: str = ""
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    user: UserId = NO_USER
    user_name: str = ""
    device: DeviceId = NO_DEVICE

    def is_by(self, user: UserId, user_name: str, device: DeviceId = NO_DEVICE) -> None:
        """Notes who it is that asks."""
        self.user, self.user_name, self.device = user, user_name, device


def asking() -> Asking:
    """The request that is being answered; an empty one outside of any."""
    return _CURRENT.get(None) or Asking()


def begin(request: Asking) -> None:
    """From now on this task answers that request."""
    _CURRENT.set(request)


_CURRENT: ContextVar[Asking | None] = ContextVar("asking")
