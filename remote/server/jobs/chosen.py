"""Chosen: which jobs a server runs."""

from dataclasses import dataclass
from typing import Final

from remote.server.instance import Instance
from remote.server.jobs.following import Job

SEARCHES: Final = ("content", "names", "off")


@dataclass(frozen=True)
class Choice:
    """What whoever runs the server chose; `search`: what files are found by, one of SEARCHES."""

    search: str = "content"


def chosen(instance: Instance, choice: Choice) -> list[Job]:
    """The jobs, to be run as long as the instance is open."""
    jobs: list[Job] = []
    if choice.search != "off":
        jobs.append(instance.search.indexer(reads_content=choice.search == "content"))
    return jobs
