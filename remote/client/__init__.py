"""The way to a server: the only package that speaks HTTP as a client."""

import sys

# httpx loads its own command line, and with it click, rich and pygments, if it can: 4 MB and 80 ms for each daemon.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None says that there is no such module
