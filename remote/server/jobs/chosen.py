"""Chosen: which jobs a server runs."""

from dataclasses import dataclass
from typing import Final

from remote.protocol.ids import SpaceId
from remote.server.instance import Instance
from remote.server.jobs.following import Job
from remote.server.scanning.anew import Anew
from remote.server.scanning.clamd import Clamd
from remote.server.scanning.job import Scanning
from remote.server.scanning.marking import Marked
from remote.server.scanning.showing import Showing

SEARCHES: Final = ("content", "names", "off")


@dataclass(frozen=True)
class Choice:
    """What whoever runs the server chose.

    `search`: what files are found by, one of SEARCHES; `has_previews`: whether the usual previews are made ahead;
    `clamd`: where the virus scanner listens, empty for none. `has_upkeep`: whether gc and scrub are done regularly.
    """

    search: str = "content"
    has_previews: bool = True
    clamd: str = ""
    has_upkeep: bool = False


def chosen(instance: Instance, choice: Choice) -> list[Job]:
    """The jobs, to be run as long as the instance is open."""
    jobs: list[Job] = []
    if choice.search != "off":
        jobs.append(instance.search.indexer(reads_content=choice.search == "content"))
    if choice.has_previews:
        jobs.append(instance.previews.job())
    if choice.clamd:

        def tell(space: SpaceId, marked: Marked) -> None:
            if marked.event is not None:
                instance.answers.chunks.refuse(space, marked.chunks, marked.event.detail)
            if marked.is_committed:
                instance.hub.moved_elsewhere(space)
            if marked.event is not None and not marked.is_told:
                instance.events.announce_now(space, marked.event)

        # One each, as each is ended while it waits for an answer.
        clamd, again = Clamd.at(choice.clamd), Clamd.at(choice.clamd)
        database, contents = instance.database, instance.contents
        anew = Anew(database, instance.keyring, contents, again, Showing(database, contents, again, tell))
        jobs.append(Scanning(database, Showing(database, contents, clamd, tell), clamd, anew))
    return jobs
