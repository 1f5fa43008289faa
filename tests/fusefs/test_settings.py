"""Settings: places, choices and the account."""

import stat
from pathlib import Path

import pytest

from fusefs.settings import (
    Account,
    Choices,
    Places,
    SettingsError,
    load_account,
    load_choices,
    remove_account,
    save_account,
    size_bytes,
)

ACCOUNT = Account("http://127.0.0.1:1", "a token", 5, "desk", 6, "ann", 7, b"\xff" * 32, "an instance")


def test_satchel_home_holds_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SATCHEL_HOME", str(tmp_path / "deep/home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    places = Places.of_environment()
    assert not (tmp_path / "deep").exists()
    places.make()
    folders = [places.config, places.state, places.cache, places.run]
    assert [folder.parent for folder in folders] == [tmp_path / "deep/home"] * 4
    for folder in (*folders, tmp_path / "deep/home", tmp_path / "deep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_relative_home_counts_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SATCHEL_HOME", "home")
    assert Places.of_environment().config == tmp_path / "home/config"


def test_xdg_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SATCHEL_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "quick"))
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    places = Places.of_environment()
    assert places.config == tmp_path / ".config/satchel"
    assert places.cache == tmp_path / "quick/satchel"
    assert places.state == tmp_path / ".local/state/satchel"
    assert places.run == tmp_path / ".local/state/satchel/run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Places.of_environment().run == tmp_path / "satchel"


def test_a_folder_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SATCHEL_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=r"file/config cannot be made"):
        Places.of_environment().make()


@pytest.mark.parametrize(
    ("text", "size"),
    [(5, 5), ("5", 5), ("20G", 20 << 30), ("1.5 MiB", 3 << 19), ("3k", 3 << 10), ("2TB", 2 << 40)],
)
def test_sizes_as_people_write_them(text: int | str, size: int) -> None:
    assert size_bytes(text, "x") == size


@pytest.mark.parametrize("text", ["", "G", "-1", -1, "20 Gigs", "1e9", "99999999999999T", "9" * 400])
def test_other_sizes_are_refused(text: int | str) -> None:
    with pytest.raises(SettingsError, match=r"^x is "):
        size_bytes(text, "x")


def test_no_file_means_the_usual(tmp_path: Path) -> None:
    assert load_choices(tmp_path / "config.toml") == Choices()


def test_choices_of_the_file_and_of_the_command_above_them(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('cache_size_bytes = "1G"\nfree_floor_bytes = 0\nread_seconds = 2\nbackground_listing = false\n')
    assert load_choices(file) == Choices(1 << 30, 0, 2.0, background_listing=False)
    changed = load_choices(file, {"cache_size_bytes": "64M", "read_seconds": "3.5"})
    assert changed == Choices(64 << 20, 0, 3.5, background_listing=False)
    assert load_choices(file, {"uid": "1000", "sync": "remote"}).uid == 1000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cache_size_bytes = ", "config.toml"),
        ("cash_size = 5", "no setting 'cash_size'. The settings are: cache_size_bytes"),
        ("read_seconds = true", "read_seconds is True, it must be a number of seconds"),
        ('read_seconds = "viel"', "read_seconds is 'viel', it must be a number of seconds"),
        ("read_seconds = 0", "read_seconds"),
        ('cache_size_bytes = "much"', "cache_size_bytes"),
        ("cache_size_bytes = 5", "16M"),
        ("background_listing = 1", "must be true or false"),
        ('owners = "other"', "owners"),
        ('sync = "later"', "sync"),
        ("uid = -1", "uid"),
        ('owners = "real"\ngid = 5', "gid"),
    ],
)
def test_a_bad_setting_is_named_with_its_file(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=named) as caught:
        load_choices(file)
    assert str(file) in str(caught.value)


def test_the_account_is_private_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    assert load_account(file) is None
    file.touch(0o644)
    save_account(file, ACCOUNT)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_account(file) == ACCOUNT
    assert [path.name for path in tmp_path.iterdir()] == ["account.json"]
    remove_account(file)
    assert load_account(file) is None


def test_a_damaged_account_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text("{")
    with pytest.raises(SettingsError, match=r"satchel login"):
        load_account(file)


def test_who_signs_in_again_stays_who_they_are() -> None:
    again = Account("https://other.example", "another", 9, "desk", 6, "ann", 7, b"", "an instance")
    assert again.identity == ACCOUNT.identity
