"""Pages: the few that somebody with a link and a browser sees. No scripts, nothing from elsewhere."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote_from_bytes

from remote.protocol.nodes import Kind
from remote.protocol.sizes import shown_size
from remote.server.files import Item, shown_name

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:50em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;width:100%}"
    "td{padding:.3em .5em;border-bottom:1px solid #ddd;overflow-wrap:anywhere}"
    "td+td{text-align:right;white-space:nowrap;color:#666}a{color:#06c;text-decoration:none}"
)


def message(title: str, sentence: str) -> str:
    """A page that says one thing."""
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(sentence)}</p>")


def sign_in(device_name: str, letters: str, address: str) -> str:
    """What somebody sees who is to sign a device in elsewhere."""
    return _page(
        "Sign in",
        f"<h1>Sign in {escape(device_name)}</h1>"
        f"<p>The device shows these letters: <strong>{escape(letters)}</strong></p>"
        "<p>If it does not, or if you did not begin this yourself, close this page: somebody wants to get at your"
        f' files.</p><p><a href="{escape(address)}">Go on and sign in</a></p>',
    )


def folder(base: str, item: Item, children: Sequence[Item], *, is_top: bool, has_archive: bool) -> str:
    """What is in a folder; `base` is its own path, which ends with a slash."""
    title = shown_name(item.name) or "Files"
    rows = [] if is_top else ['<tr><td><a href="../">..</a></td><td></td></tr>']
    for child in children:
        is_folder = child.state.kind == Kind.FOLDER
        address = f"{base}{quote_from_bytes(child.name)}{'/' if is_folder else ''}"
        size = "" if is_folder else shown_size(child.state.content.size if child.state.content is not None else 0)
        name = shown_name(child.name) + ("/" if is_folder else "")
        rows.append(f'<tr><td><a href="{escape(address)}">{escape(name)}</a></td><td>{size}</td></tr>')
    archive = f'<p><a href="{escape(base)}?zip">Download all of it (zip)</a></p>' if has_archive else ""
    return _page(title, f"<h1>{escape(title)}</h1>{archive}<table>{''.join(rows)}</table>")


def upload(base: str, name: str) -> str:
    """How to bring files with nothing but what every system has."""
    command = f"curl -T FILE {base}"
    return _page(
        name,
        f"<h1>{escape(name)}</h1><p>Bring a file here; nobody who has this link sees what others brought.</p>"
        '<form method="post" enctype="multipart/form-data"><input type="file" name="file" required>'
        f"<button>Send</button></form><p>Or: <code>{escape(command)}</code></p>",
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="robots" content="noindex"><title>{escape(title)}</title><style>{_STYLE}</style>{body}</html>'
    )
