"""What the daemon loads: it lives as long as the mount, and so does all that it has in memory."""

import subprocess
import sys


def test_the_daemon_loads_nothing_that_is_for_terminals() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, fusefs.daemon; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "httpx" in loaded
    assert not {"click", "rich", "pygments"}.intersection(loaded)
