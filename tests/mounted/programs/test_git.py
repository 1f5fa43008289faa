"""git in the mount: clone, commit, merge, worktree, gc, repack, fsck; the same repository after a cold mount."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.programs.running import is_kept, mounted_cold, run

pytestmark = pytest.mark.mounted

VARIABLES = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@localhost",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@localhost",
}


def _git(folder: Path, *args: str | Path) -> str:
    return run("git", *args, folder=folder, variables=VARIABLES)


def _history(folder: Path, commits: int) -> None:
    """A repository with a few branches, small files and large ones."""
    _git(folder.parent, "init", "--quiet", "--initial-branch=main", folder)
    source = random.Random(1)
    for commit in range(commits):
        for number in range(10):
            path = folder / f"folder-{source.randrange(8)}" / f"file-{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.randbytes(source.choice((10, 1_000, 30_000))))
        if commit % 10 == 0:
            (folder / "large").write_bytes(source.randbytes(700_000))
        _git(folder, "add", "--all")
        _git(folder, "commit", "--quiet", "--message", f"commit {commit}")


def test_a_repository_is_cloned_worked_in_and_cleaned_up(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    origin = tmp_path / "origin"
    _history(origin, 20)
    work = desk.path / "work"
    # Without hard links and through the transport: what a clone from elsewhere does.
    _git(desk.path, "clone", "--quiet", f"file://{origin}", work)
    _git(work, "checkout", "--quiet", "-b", "topic")
    (work / "folder-1" / "more").write_text("more\n")
    _git(work, "add", "--all")
    _git(work, "commit", "--quiet", "--message", "more")
    _git(work, "worktree", "add", "--quiet", desk.path / "tree", "main")
    (desk.path / "tree" / "other").write_text("other\n")
    _git(desk.path / "tree", "add", "other")
    _git(desk.path / "tree", "commit", "--quiet", "--message", "other")
    _git(work, "merge", "--quiet", "--message", "merged", "main")
    assert (work / "other").read_text() == "other\n"
    _git(work, "repack", "-a", "-d", "-f", "--quiet")
    _git(work, "gc", "--quiet", "--aggressive", "--prune=now")
    _git(work, "fsck", "--full", "--strict")
    _git(work, "stash", "list")
    _git(work, "push", "--quiet", "origin", "topic")
    assert _git(origin, "rev-parse", "topic") == _git(work, "rev-parse", "HEAD")
    log = _git(work, "log", "--format=%H", "--all")
    mounted_cold(desk)
    assert _git(work, "status", "--porcelain") == ""
    assert _git(desk.path / "tree", "status", "--porcelain") == ""
    assert _git(work, "log", "--format=%H", "--all") == log
    _git(work, "fsck", "--full", "--strict")
    _git(work, "worktree", "remove", desk.path / "tree")
    assert not (desk.path / "tree").exists()


def test_a_local_clone_shares_objects_by_hard_links(device: Any) -> None:
    desk = device("desk")
    origin = desk.path / "origin"
    _history(origin, 3)
    _git(desk.path, "clone", "--quiet", "--local", origin, "copy")
    shared = [path for path in (desk.path / "copy/.git/objects").rglob("*") if path.is_file()]
    assert shared
    assert all(path.stat().st_nlink == 2 for path in shared)
    _git(desk.path / "copy", "fsck", "--full", "--strict")
    is_kept(desk, desk.path)
