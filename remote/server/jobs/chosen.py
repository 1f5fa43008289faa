"""Chosen: which jobs a server runs."""

from dataclasses import dataclass
from typing import Final

from remote.server.instance import Instance
from remote.server.jobs.following import Job

SEARCHES: Final = ("content", "names", "off")


@dataclass(frozen=True)
class Choice:
    """What whoever runs the server chose.

    `search`: what files are found by, one of SEARCHES; `has_previews`: whether the usual previews are made ahead.
    """

    search: str = "content"
    has_previews: bool = True


def chosen(instance: Instance, choice: Choice) -> list[Job]:
    """The jobs, to be run as long as the instance is open."""
    jobs: list[Job] = []
    if choice.search != "off":
        jobs.append(instance.search.indexer(reads_content=choice.search == "content"))
    if choice.has_previews:
        jobs.append(instance.previews.job())
    return jobs
