"""The command line: what may be said, which exit code follows, and what a person reads."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from fusefs import mounts
from fusefs.cli import main, standing
from fusefs.cli.showing import shown
from fusefs.cli.standing import told
from fusefs.cli.watching import drawn
from fusefs.control import Exit, Refused
from fusefs.options import parse_options

COMMANDS = {
    *("diff", "rewind", "undo", "trash", "purge", "retention"),
    *("devices", "password", "link", "totp", "token", "audit", "email"),
    *("guard", "events", "preview", "search"),
    *("share", "shared", "unshare", "accept", "decline", "leave", "group"),
    "backup",
    "cache",
    "login",
    "logout",
    "mount",
    "umount",
    "status",
    "wait",
    "versions",
    "restore",
    "conflicts",
    "resolve",
    "stats",
    "doctor",
    "limit",
    "pause",
    "resume",
    "fstab",
    "pin",
    "unpin",
}

ODD = "\x1b[2J\n\x9b\u202e\udcff\x7f"
ODD_SHOWN = r"\x1b[2J\n\x9b\u202e\xff\x7f"

STANDING: dict[str, Any] = {
    "mount": "/home/ann/Satchel",
    "url": "https://files.example.org/",
    "user": "ann",
    "device": "desk",
    "online": True,
    "signed_in": True,
    "trouble": "",
    "silent_seconds": 0.0,
    "paused": {"is_paused": False, "reason": "", "until": "", "is_metered": False},
    "limits": {"up": 0, "down": 0},
    "rates": {"up": 0, "down": 0},
    "pending": {"count": 0, "bytes": 0, "sent_bytes": 0, "seconds_left": None, "no_room": 0, "blocked": 0, "files": []},
    "full": "",
    "stuck": [],
    "asked": {"count": 0, "sentence": ""},
    "events": [],
    "rules": [],
    "conflicts": 0,
    "ignored": {"count": 0, "bytes": 0},
    "pinned": [],
    "backups": [],
    "kept": {"files": 0, "size_bytes": 0, "missing_files": 0, "missing_bytes": 0},
    "cache": {"bytes": 5_000_000, "limit_bytes": 10_000_000_000},
    "spaces": [
        {"name": "ann", "used_bytes": 0, "quota_bytes": 0, "free_bytes": 0, "path": "", "role": "owner"},
    ],
    "rev": 1,
    "unlisted_folders": 0,
    "set_back": "",
}
FILE = {"path": "a", "bytes": 4_000_000, "sent_bytes": 1_000_000, "state": "sending"}
PENDING: dict[str, Any] = {
    "count": 3,
    "bytes": 8_000_000,
    "sent_bytes": 1_000_000,
    "seconds_left": 7.0,
    "no_room": 0,
    "blocked": 0,
    "files": [FILE, {**FILE, "path": "b", "sent_bytes": 0, "state": "waiting"}],
}


def _ended(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """The exit code of `satchel ARGS`, run here."""
    monkeypatch.setattr(sys, "argv", ["satchel", *args])
    with pytest.raises(SystemExit) as caught:
        main.main()
    return int(caught.value.code or 0)


def test_the_promised_commands_are_there() -> None:
    assert set(main.satchel.commands) == COMMANDS


@pytest.mark.parametrize(
    "args",
    [
        ["dance"],
        ["mount"],
        ["fstab"],
        ["login", "http://x"],
        ["wait", "--timeout", "soon"],
        ["wait", "--timeout", "-1"],
        ["restore"],
        ["rewind", "x"],
        ["diff", "x"],
        ["undo", "0"],
        ["status", "--jason"],
        ["pin"],
        ["pin", "--list", "x"],
        ["cache", "limit"],
    ],
)
def test_what_is_no_command_is_a_fault_of_use(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    assert _ended(monkeypatch, *args) == Exit.USAGE


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["mount", "--help"]])
def test_help_and_version(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    assert _ended(monkeypatch, *args) == Exit.OK


def test_without_a_mount(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _ended(monkeypatch, "status", "--json") == Exit.NOT_MOUNTED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("satchel: Satchel is not mounted")


@pytest.mark.parametrize(
    ("changes", "code", "first"),
    [
        ({}, Exit.OK, "All changes are on the server."),
        ({"online": False, "trouble": "no route"}, Exit.UNREACHABLE, "All changes are on the server."),
        ({"online": False, "signed_in": False}, Exit.SIGN_IN, "All changes are on the server."),
        (
            {"pending": PENDING},
            Exit.PENDING,
            "3 changes not on the server yet; safe on this device, and they are being sent.",
        ),
        (
            {"pending": {**PENDING, "count": 1}, "online": False},
            Exit.PENDING,
            "1 change not on the server yet; safe on this device, and it is sent when the server is back.",
        ),
        (
            {"pending": {**PENDING, "count": 1}, "silent_seconds": 12.0},
            Exit.PENDING,
            "1 change not on the server yet; safe on this device, and it is sent when the server is back.",
        ),
    ],
)
def test_status_says_first_whether_the_work_is_safe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    code: int,
    first: str,
) -> None:
    monkeypatch.setattr(standing, "ask", lambda *_, **__: {**STANDING, **changes})
    assert _ended(monkeypatch, "status") == code
    assert capsys.readouterr().out.splitlines()[0] == first


@pytest.mark.parametrize(
    ("pending", "asked", "first"),
    [
        ({"blocked": 3}, 3, "They wait for your yes: satchel guard allow (or refuse)."),
        ({"blocked": 3, "no_room": 3}, 0, "They have no room in the quota, and go when there is."),
        ({"blocked": 3, "no_room": 1}, 2, "They cannot be sent now, see below."),
        ({"blocked": 1, "count": 1}, 1, "It waits for your yes: satchel guard allow (or refuse)."),
        ({"blocked": 1}, 1, "The others are being sent; 1 waits for your yes: satchel guard allow (or refuse)."),
        (
            {"blocked": 2, "no_room": 2},
            0,
            "The other one is being sent; 2 have no room in the quota, and go when there is.",
        ),
    ],
)
def test_status_does_not_say_that_what_waits_for_somebody_is_being_sent(
    pending: dict[str, Any], asked: int, first: str
) -> None:
    found = {**STANDING, "pending": {**PENDING, **pending, "seconds_left": None}, "rates": {"up": 1_000_000, "down": 0}}
    lines = told({**found, "asked": {"count": asked, "sentence": "Say yes."}})
    assert lines[0].endswith(f"not on the server yet; safe on this device. {first}")
    is_any_sent = pending["blocked"] < found["pending"]["count"]
    assert ("a second" in "\n".join(lines)) == is_any_sent


def test_status_tells_of_backups_and_what_is_not_in_them() -> None:
    one = {
        "folder": "/home/ann/Documents",
        "target": "Backups/desk/Documents",
        "state": "paused",
        "reason": "It is gone.",
        "problems": [{"path": ODD, "sentence": "Permission denied"}] * 4,
        "problem_count": 6,
        "unwatched": "No more watches.",
    }
    assert told({**STANDING, "backups": [one]})[-7:-1] == [
        "  Backup  /home/ann/Documents -> Backups/desk/Documents: paused. It is gone.",
        *[f"  Issue   /home/ann/Documents/{ODD_SHOWN} is not backed up: Permission denied"] * 3,
        "          and 3 more: satchel backup status",
        "  Issue   No more watches. Until then backups are looked through every few minutes.",
    ]


def test_status_names_what_is_stuck_and_why() -> None:
    stuck = {"path": "Docs/plan.odt", "sentence": "The space is full.", "seconds": 12.0}
    space = {**STANDING["spaces"][0], "quota_bytes": 10_000, "used_bytes": 9_999}
    text = "\n".join(told({**STANDING, "stuck": [stuck], "spaces": [space]}))
    assert "Docs/plan.odt: The space is full." in text
    assert "Space   ann: 9.8 KiB of 9.8 KiB" in text
    assert "ann@files.example.org" in text


def test_status_names_each_shared_folder() -> None:
    thesis = {"name": "thesis", "path": "work/thesis", "role": "editor", "owner": "bob"}
    space = {**STANDING["spaces"][0], **thesis, "used_bytes": 2_048}
    text = "\n".join(told({**STANDING, "spaces": [*STANDING["spaces"], space]}))
    assert "Space   thesis: 2.0 KiB, editor, of bob, at work/thesis" in text


def test_status_tells_what_waits_for_a_yes_and_what_happened() -> None:
    event = {
        "event": 3,
        "in": "",
        "kind": "mass-change",
        "state": "told",
        "user": "ann",
        "device": "desk",
        "began": "2026-11-21T10:15:30Z",
        "removed": 1_200,
        "overwritten": 0,
        "taken": 0,
    }
    asked = {"count": 700, "sentence": "Say yes."}
    held = {**event, "state": "held"}
    events = [event, {**held, "event": 4}, {**held, "event": 5, "device": "x", "taken": 499}]
    text = "\n".join(told({**STANDING, "asked": asked, "events": events}))
    assert "700 changes wait for your yes: Say yes." in text
    assert "Event 3, 2026-11-21T10:15:30Z: 1,200 removed by desk (ann)." in text
    assert "satchel undo --event 3" in text
    # What is held here is told by what waits; what is held elsewhere, there.
    assert "Event 4" not in text
    assert "Event 5, 2026-11-21T10:15:30Z: at least 1,200 removed by x (ann). Waits for your yes" in text
    assert "satchel guard allow 5, or satchel guard refuse 5, which also brings back the 499 that went before" in text


def test_status_tells_how_fast_how_long_and_how_far() -> None:
    limits = {"up": 2_000_000, "down": 0}
    text = "\n".join(
        told({**STANDING, "pending": PENDING, "rates": {"up": 1_000_000, "down": 50_000}, "limits": limits})
    )
    assert "Up      3 changes, 7.6 MiB of content, 976.6 KiB of it sent, 976.6 KiB a second, about 7 s left" in text
    assert "a   3.8 MiB   25 % sent" in text
    assert "and 1 more" in text
    assert "Down    48.8 KiB a second" in text
    assert "this drive sends at most 1.9 MiB a second" in text


@pytest.mark.parametrize("change", [{"online": False}, {"paused": {"is_paused": True, "reason": "", "until": ""}}])
def test_status_tells_no_rate_of_a_line_that_is_not_used_any_more(change: dict[str, Any]) -> None:
    text = "\n".join(told({**STANDING, "pending": PENDING, "rates": {"up": 1_000_000, "down": 0}, **change}))
    assert "976.6 KiB of it sent" in text
    assert "a second" not in text


def test_the_bars_of_watch_show_each_file() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(drawn({**STANDING, "pending": PENDING}))
    text = console.export_text()
    assert text.startswith("3 changes not on the server yet")
    assert "3.8 MiB ━" in text
    assert "and 1 more" in text


def test_a_refusal_is_one_sentence_and_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: str) -> object:
        raise Refused("The daemon is tired.", 5)

    monkeypatch.setattr(standing, "ask", refuse)
    assert _ended(monkeypatch, "stats") == Exit.UNREACHABLE
    assert capsys.readouterr().err == "satchel: The daemon is tired.\n"


def test_status_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['satchel', 'status']\n"
        "from fusefs.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('rich', 'trio', 'httpx', 'pyfuse3', 'lmdb', 'cryptography') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_mount_options_for_the_kernel_and_for_us() -> None:
    told = parse_options("ro,cache-size=2G,x-gvfs-show,_netdev,user=ann,allow_other,,read_seconds=3,owners=real,uid=5")
    assert told.kernel == {"ro", "allow_other"}
    assert told.settings == {"cache_size_bytes": "2G", "read_seconds": "3", "owners": "real", "uid": "5"}
    assert parse_options("ro,sync,rw,sync=remote") == ({"sync"}, {"sync": "remote"})


@pytest.mark.parametrize("text", ["dance", "ro=1", "fsname=x", "cache_size"])
def test_other_mount_options_are_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"is not known") as caught:
        parse_options(text)
    assert caught.value.code == Exit.USAGE


def test_a_folder_s_real_place_is_found_without_asking_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mounts.real(str(tmp_path / "link")) == str(tmp_path.resolve() / "real")
    assert mounts.real(str(tmp_path / "link/new")) == str(tmp_path.resolve() / "real/new")
    assert mounts.real("/") == "/"


def test_the_mounts_of_this_machine_are_read() -> None:
    assert mounts.mount_at("/proc") is not None
    assert mounts.mount_at("/no/such") is None
    assert mounts._plain("/a\\040b\\134") == "/a b\\"


def test_a_name_cannot_drive_the_terminal() -> None:
    assert shown(f"a{ODD}z") == f"a{ODD_SHOWN}z"
    usual = "Grüße \u3000日本 👩\u200d🚀 a\\b.txt"
    assert shown(usual) == usual
    file = {"path": ODD, "bytes": 5, "sent_bytes": 0, "state": "waiting"}
    pending = {
        "count": 1,
        "bytes": 5,
        "sent_bytes": 0,
        "seconds_left": None,
        "no_room": 0,
        "blocked": 1,
        "files": [file],
    }
    stuck = [{"path": ODD, "sentence": ODD, "seconds": 1.0}]
    lines = told({**STANDING, "pending": pending, "stuck": stuck, "pinned": [ODD], "rules": [ODD]})
    assert sum(line.count(ODD_SHOWN) for line in lines) == 5
    assert shown("".join(lines)) == "".join(lines)


def test_a_refusal_cannot_drive_the_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.fail("a\x1b[2J\udcff\nsecond line", Exit.FAILURE)
    assert capsys.readouterr().err == "satchel: a\\x1b[2J\\xff\nsecond line\n"


def _groups(group: click.Group, name: str = "satchel") -> Iterator[tuple[str, click.Group]]:
    yield name, group
    for called, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _groups(command, f"{name} {called}")


@pytest.mark.parametrize(("name", "group"), list(_groups(main.satchel)))
def test_what_a_command_does_is_told_whole_in_a_narrow_terminal(name: str, group: click.Group) -> None:
    told = group.get_help(click.Context(group, info_name=name, terminal_width=80))
    _, _, commands = told.partition("Commands:")
    assert "..." not in commands, commands


@pytest.mark.parametrize(
    "args",
    [
        ["status", ""],
        ["retention", "--all-days", "1", "--in", ""],
        ["email", ""],
        ["backup", "add", ""],
        ["umount", ""],
    ],
)
def test_an_empty_word_means_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert _ended(monkeypatch, *args) == Exit.USAGE
    assert "Nothing was done." in capsys.readouterr().err


def test_an_event_of_a_shared_folder_tells_what_to_type_anywhere() -> None:
    event = {
        "event": 3,
        "in": "our work",
        "kind": "mass-change",
        "state": "told",
        "user": "ann",
        "device": "desk",
        "began": "2026-11-21T10:15:30Z",
        "removed": 1_200,
        "taken": 0,
        "overwritten": 0,
    }
    text = "\n".join(told({**STANDING, "mount": "/mnt", "events": [event]}))
    assert "satchel undo --event 3 --in '/mnt/our work'; if" in text
