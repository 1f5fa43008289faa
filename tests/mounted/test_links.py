"""Public links as people use them: made on a mount, opened by anybody, files brought into a folder."""

import json
from typing import Any

import httpx


def test_a_link_is_made_used_and_revoked(device: Any) -> None:
    desk = device("desk")
    (desk.path / "thesis").mkdir()
    (desk.path / "thesis" / "intro.txt").write_text("Call me Ishmael.")
    made = json.loads(
        desk.must(
            "link", "make", desk.path / "thesis", "--expires", "7d", "--password-stdin", "--json", text="sesame\n"
        )
    )
    assert (made["name"], made["has_password"], made["kind"]) == ("thesis", True, "read")
    assert httpx.get(f"{made['url']}/intro.txt", timeout=60).status_code == 401
    assert httpx.get(f"{made['url']}/intro.txt", auth=("", "sesame"), timeout=60).text == "Call me Ishmael."
    (desk.path / "thesis" / "intro.txt").write_text("It was the best of times.")
    desk.wait()
    assert httpx.get(f"{made['url']}/intro.txt", auth=("", "sesame"), timeout=60).text == "It was the best of times."
    listed = desk.must("link", "list")
    assert f"{made['url']}  thesis\n" in listed
    assert "with a password" in listed
    (desk.path / "work").mkdir()
    (desk.path / "thesis").rename(desk.path / "work" / "book")
    desk.wait()
    assert f"{made['url']}  work/book\n" in desk.must("link", "list")
    desk.must("link", "revoke", made["url"])
    assert f"link revoked: link {made['link']}, read: work/book" in desk.must("audit")
    assert httpx.get(made["url"], timeout=60).status_code == 410
    assert "no links" in desk.must("link", "list")


def test_what_others_bring_shows_in_the_mount(device: Any) -> None:
    desk = device("desk")
    (desk.path / "inbox").mkdir()
    url = desk.must("link", "make", desk.path / "inbox", "--upload-only").strip()
    content = bytes(range(256)) * 20_000
    assert httpx.put(f"{url}/photo.raw", content=content, timeout=120).status_code == 201
    desk.sees("inbox/photo.raw", content)


def test_what_cannot_be_linked_is_said(device: Any) -> None:
    desk = device("desk")
    (desk.path / "note").write_text("x")
    desk.wait()
    both = desk.cli("link", "make", desk.path / "note", "--view-only", "--upload-only")
    missing = desk.cli("link", "make", desk.path / "nothing")
    file = desk.cli("link", "make", desk.path / "note", "--upload-only")
    unknown = desk.cli("link", "revoke", "nonsense")
    assert [result.returncode for result in (both, missing, file, unknown)] == [2, 1, 2, 1]
    assert "into a folder only" in file.stderr
