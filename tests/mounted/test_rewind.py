"""Rewind, undo and diff, as a person uses them: whole trees, seen at once here and elsewhere, no content moved."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import differences, entries

pytestmark = pytest.mark.mounted


@pytest.fixture
def desk(device: Any) -> Any:
    made = device("desk")
    folder = made.path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "text").write_text("first\nsecond\n")
    (folder / "large").write_bytes(os.urandom(1_000_000))
    (folder / "inner/file").write_text("deep")
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    made.wait()
    return made


def rev(device: Any) -> str:
    device.wait()
    return str(device.status()["rev"])


def spoil(folder: Path) -> None:
    (folder / "text").write_text("first\nother\n")
    (folder / "large").rename(folder / "huge")
    (folder / "script").chmod(0o600)
    shutil.rmtree(folder / "inner")
    (folder / "new").write_text("new")


def test_a_tree_is_rewound_and_that_undone_on_every_device(desk: Any, device: Any) -> None:
    folder, laptop = desk.path / "folder", device("laptop")
    first, wanted = rev(desk), entries(folder)
    spoil(folder)
    desk.in_step(laptop)
    spoilt, sent = entries(folder), desk.stats()["sent_bytes"]

    told = json.loads(desk.must("rewind", folder, "--to", first, "--dry-run", "--json"))
    assert (told["rev"], told["changed"], told["moved"], told["added"], told["removed"]) == (0, 1, 1, 2, 1)
    assert differences(spoilt, entries(folder)) == []
    said = desk.must("rewind", folder, "--to", first)
    assert "> huge -> large" in said
    assert "is as of rev" in said
    assert differences(wanted, entries(folder)) == []
    desk.in_step(laptop)
    assert differences(wanted, entries(laptop.path / "folder")) == []

    assert "is undone" in desk.must("undo")
    assert differences(spoilt, entries(folder)) == []
    desk.in_step(laptop)
    assert differences(spoilt, entries(laptop.path / "folder")) == []
    # Nobody sent or fetched content for any of it.
    assert desk.stats()["sent_bytes"] - sent < 50_000
    assert desk.must("rewind", folder, "--to", rev(desk)) == "There was nothing to change.\n"


def test_what_is_not_sent_yet_is_sent_first(desk: Any) -> None:
    folder = desk.path / "folder"
    first = rev(desk)
    with open(folder / "text", "w") as file:
        file.write("written, not closed, not sent")
        file.flush()
        desk.must("rewind", folder, "--to", first)
    # Whoever has it open for writing goes on with what he has; then it is what the server has.
    desk.sees("folder/text", "first\nsecond\n")
    desk.must("undo")
    assert (folder / "text").read_text() == "written, not closed, not sent"


def test_an_undo_that_changes_nothing_fails_and_names_what_stays(desk: Any) -> None:
    text = desk.path / "folder" / "text"
    text.write_text("second")
    second = rev(desk)
    text.write_text("third")
    third = rev(desk)
    refused = desk.cli("undo", second)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"Rev {second} is not undone: nothing was changed." in refused.stderr
    assert f"folder/text (changed again in rev {third})" in refused.stderr
    told = desk.cli("undo", second, "--json")
    assert (told.returncode, json.loads(told.stdout)["stays"]) == (1, [{"path": "folder/text", "rev": int(third)}])
    assert (text.read_text(), rev(desk)) == ("third", third)
    assert "folder/text" in desk.must("undo", second, "--dry-run")


def test_what_differs_is_shown(desk: Any) -> None:
    folder = desk.path / "folder"
    first = rev(desk)
    spoil(folder)
    second = rev(desk)
    told = desk.must("diff", folder, "--from", first)
    lines = sorted(line.split("   ")[0] for line in told.splitlines())
    assert lines == ["+ new", "- inner/", "- inner/file", "> large -> huge", "a script", "~ text"]
    told = desk.must("diff", folder / "text", "--from", first, "--to", second).splitlines()
    assert told[-3:] == [" first", "-second", "+other"]
    assert desk.must("diff", folder / "inner/file", "--from", first).splitlines()[-1] == "-deep"
    assert "does not differ" in desk.must("diff", folder / "huge", "--from", first)
    # A rev is a name in .versions, too.
    assert (folder / ".versions" / f"rev-{first}" / "text").read_text() == "first\nsecond\n"
    assert not (folder / ".versions" / "rev-0").exists()


def test_a_folder_that_was_emptied_before_it_was_removed_comes_back_with_what_was_in_it(desk: Any) -> None:
    inner = desk.path / "folder" / "inner"
    wanted = entries(inner)["file"]
    (inner / "file").unlink()
    desk.wait()
    inner.rmdir()
    desk.wait()
    said = desk.must("restore", inner)
    assert "what is below it (2 in all)" in said
    assert entries(inner)["file"] == wanted


def test_a_copy_is_put_beside_and_a_removed_thing_needs_no_time(desk: Any) -> None:
    folder = desk.path / "folder"
    first = rev(desk)
    wanted = entries(folder / "inner")
    with desk.in_one_go():
        spoil(folder)
    desk.wait()
    desk.must("restore", folder / "text", "--at", first, "--copy")
    assert (folder / f"text (rev {first})").read_text() == "first\nsecond\n"
    assert (folder / "text").read_text() == "first\nother\n"
    desk.must("restore", folder / "inner")
    assert (folder / "inner/file").read_text() == "deep"
    assert entries(folder / "inner")["file"] == wanted["file"]
    refused = desk.cli("restore", folder / "text")
    assert refused.returncode == 1
    assert "--at" in refused.stderr
    for args in (("restore", folder / "text", "--at", "yesterday"), ("rewind", folder, "--to", "2999-01-01")):
        assert desk.cli(*args).returncode == 2
