"""Small: many small files made, listed, read and removed; and a source tree unpacked and put under git."""

import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.bench.contestant import Contestant
from tests.bench.work import Figure, Scale, Step, noise, piped, run, timed
from tests.mounted import debian

BYTES = 4_096
IN_FOLDER = 100
GIT = ("git", "-c", "user.name=Ann", "-c", "user.email=ann@localhost", "-c", "gc.auto=0")

_noise = cache(noise)


def _create(one: Contestant, scale: Scale) -> Iterator[Figure]:
    content, top = _noise(4, scale.small_files * BYTES), one.path / "many"
    paths = [f"{top}/folder-{n // IN_FOLDER:03d}/file-{n % IN_FOLDER:03d}" for n in range(scale.small_files)]
    began = time.monotonic()
    top.mkdir()
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        os.mkdir(folder)
    for number, path in enumerate(paths):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(file, content[number * BYTES : (number + 1) * BYTES])
        os.close(file)
    close = time.monotonic() - began
    server = one.drained() - began
    yield Figure(f"create {scale.small_files:,} x 4 KiB until close", "files/s", scale.small_files / close)
    yield Figure(f"create {scale.small_files:,} x 4 KiB until on the server", "files/s", scale.small_files / server)


def _find(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    top = one.path / "many"
    for state in ("cold", "warm"):
        seconds = timed(lambda: piped("find", ".", "-ls", folder=top))
        yield Figure(f"find -ls of many, {state}", "files/s", scale.small_files / seconds)


def _tar(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    top = one.path / "many"

    def rate() -> float:
        return scale.small_files / timed(lambda: piped("tar", "--create", "--file=-", ".", folder=top))

    yield Figure("tar of many, cold", "files/s", rate())
    one.forget_pages(*top.rglob("file-*"))
    yield Figure("tar of many, cached, no pages", "files/s", rate())
    yield Figure("tar of many, page cache", "files/s", rate())


def _remove(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    top = one.path / "many"
    piped("find", ".", "-ls", folder=top)
    began = time.monotonic()
    run("rm", "-rf", top)
    close = time.monotonic() - began
    yield Figure("rm -rf of many", "files/s", scale.small_files / close)
    yield Figure("rm -rf of many until on the server", "files/s", scale.small_files / (one.drained() - began))


@cache
def _source(name: str) -> bytes:
    """A source package's tarball, not compressed any more: to unpack it would measure xz."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as work:
        tarball = debian.source_package(name, Path(work))[0]
        run("tar", "--extract", "--file", tarball, "--directory", work)
        (top,) = (path for path in Path(work).iterdir() if path.name.startswith(f"{name}-"))
        whole = Path(work, "whole.tar")
        run("tar", "--create", "--file", whole, "--directory", top, ".")
        return whole.read_bytes()


def _untar(one: Contestant, _: Scale) -> Iterator[Figure]:
    tarball, tree = one.home / "git.tar", one.path / "tree"
    tarball.write_bytes(_source("git"))
    began = time.monotonic()
    tree.mkdir()
    run("tar", "--extract", "--file", tarball, "--directory", tree)
    close = time.monotonic() - began
    yield Figure("untar of git's source", "s", close)
    yield Figure("untar of git's source until on the server", "s", one.drained() - began)


def _tar_tree(one: Contestant, _: Scale) -> Iterator[Figure]:
    one.cool()
    yield Figure(
        "tar of git's source, cold", "s", timed(lambda: piped("tar", "--create", "--file=-", "tree", folder=one.path))
    )


def _add(one: Contestant, _: Scale) -> Iterator[Figure]:
    yield from _git(one, "git add", "add", "--all")


def _status(one: Contestant, _: Scale) -> Iterator[Figure]:
    yield from _git(one, "git status", "status", "--porcelain")
    yield from _git(one, "git status again", "status", "--porcelain")


def _commit(one: Contestant, _: Scale) -> Iterator[Figure]:
    yield from _git(one, "git commit", "commit", "--quiet", "--message", "all")
    yield from _git(one, "git fsck", "fsck", "--full")
    began = time.monotonic()
    yield Figure("git: what was left to send", "s", one.drained() - began)


def _git(one: Contestant, label: str, *command: str) -> Iterator[Figure]:
    tree = one.path / "tree"
    if not (tree / ".git").exists():
        run(*GIT, "init", "--quiet", folder=tree)
    yield Figure(label, "s", timed(lambda: run(*GIT, *command, folder=tree)))


SMALL = (
    Step("small.create", _create),
    Step("small.find", _find, needs="small.create"),
    Step("small.tar", _tar, needs="small.create"),
    Step("small.rm", _remove, needs="small.create"),
)
SOURCE = (
    Step("git.untar", _untar),
    Step("git.add", _add, needs="git.untar"),
    Step("git.status", _status, needs="git.add"),
    Step("git.commit", _commit, needs="git.status"),
    Step("git.tar", _tar_tree, needs="git.untar"),
)
