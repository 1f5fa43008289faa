"""Pinning: what is to stay on this machine."""

from fusefs.cli.asking import ask, path_in_mount


def pin(path: str) -> None:
    """Keeps the path's content here from now on; raises Refused."""
    found = ask("pin", path=path_in_mount(path))
    when = "is being fetched" if found.get("online", True) else "is fetched when the server is back"
    print(f"{path} stays on this machine from now on; what is missing of it {when}.")


def unpin(path: str) -> None:
    """Lets the cache drop the path's content again; raises Refused."""
    found = ask("unpin", path=path_in_mount(path))
    if found["was_pinned"]:
        print(f"{path} is kept here only as long as there is room.")
    else:
        print(f"{path} was not pinned itself. Pinned here: {', '.join(found['pinned']) or 'nothing'}.")
