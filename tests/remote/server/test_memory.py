"""Memory of the server: what bodies took goes back to the system, also below what is still used."""

import subprocess
import sys

_FRAGMENTED = """
from remote.server.serving import give_back, keep_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4_096

keep_memory()
# Behind each large block a smaller one that stays, too large for what is free elsewhere.
pairs = [(b"x" * (1 << 20), bytearray(100_000)) for _ in range(300)]
kept = [small for _, small in pairs]
del pairs
before = resident()
give_back()
print(before - resident())
"""


def test_free_memory_below_what_is_used_is_given_back() -> None:
    ran = subprocess.run([sys.executable, "-c", _FRAGMENTED], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 200 << 20
