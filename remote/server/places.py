"""Where the server keeps its data and its master key, unless told otherwise."""

import os
from pathlib import Path


def default_data() -> Path:
    """SATCHEL_SERVER_DATA, else below SATCHEL_HOME, else the XDG data directory."""
    if told := os.environ.get("SATCHEL_SERVER_DATA"):
        return Path(told)
    if home := os.environ.get("SATCHEL_HOME"):
        return Path(home) / "server"
    return _xdg("XDG_DATA_HOME", ".local/share") / "satchel" / "server"


def default_key_file() -> Path:
    """SATCHEL_MASTER_KEY_FILE, else below SATCHEL_HOME, else the XDG config directory."""
    if told := os.environ.get("SATCHEL_MASTER_KEY_FILE"):
        return Path(told)
    if home := os.environ.get("SATCHEL_HOME"):
        return Path(home) / "server-key"
    return _xdg("XDG_CONFIG_HOME", ".config") / "satchel" / "server-key"


def _xdg(variable: str, below_home: str) -> Path:
    told = os.environ.get(variable)
    return Path(told) if told else Path.home() / below_home
