"""Types: what kind of thing a file is, by the end of its name."""

from typing import Final

from remote.protocol.nodes import Kind

_GROUPS: Final = {
    "image": "jpg jpeg png gif webp bmp tif tiff svg heic heif avif ico raw cr2 cr3 nef arw dng psd xcf",
    "video": "mp4 m4v mkv webm avi mov mpg mpeg wmv flv ogv 3gp ts",
    "audio": "mp3 m4a flac ogg oga opus wav aac wma aif aiff mid midi",
    "pdf": "pdf",
    "document": "doc docx odt rtf pages epub tex ott dotx",
    "spreadsheet": "xls xlsx ods csv tsv numbers ots xltx",
    "presentation": "ppt pptx odp key otp potx",
    "archive": "zip tar gz tgz bz2 xz zst 7z rar iso jar deb rpm dmg",
    "text": "txt md rst log text org adoc asc srt vtt eml",
    "code": "py js mjs cjs jsx tsx c h cc cpp cxx hpp rs go java kt swift rb php pl sh bash zsh fish lua sql html htm"
    " css scss xml json yaml yml toml ini cfg conf r m scala hs ml ex exs clj vue svelte gradle cmake mk diff patch"
    " ipynb",
}
_TYPES: Final = {extension: group for group, all_of in _GROUPS.items() for extension in all_of.split()}
_KINDS: Final = {Kind.FOLDER: "folder", Kind.SYMLINK: "symlink"}
TYPES: Final = frozenset({*_GROUPS, "folder", "symlink", "other"})
"""What `type_of` says."""
TEXT_TYPES: Final = frozenset({"text", "code"})
OFFICE: Final = frozenset(
    {"docx", "dotx", "xlsx", "xltx", "pptx", "potx", "odt", "ods", "odp", "ott", "ots", "otp", "epub"}
)
"""Extensions of what is a zip archive with XML in it."""
_PLAIN: Final = frozenset({"csv", "tsv", "tex", "svg"})
_EXTENSION_MAX: Final = 16


def extension_of(name: str) -> str:
    """What stands behind the last dot of a folded name; empty when that is no extension."""
    front, dot, end = name.rpartition(".")
    return end if dot and front and 0 < len(end) <= _EXTENSION_MAX and end.isalnum() else ""


def type_of(kind: Kind, extension: str) -> str:
    """One of TYPES."""
    if kind != Kind.FILE:
        return _KINDS.get(kind, "other")
    return _TYPES.get(extension, "other")


def reader_of(kind: Kind, extension: str) -> str:
    """How the text of such a file is read: "pdf", "office" or "plain"; empty: not at all."""
    if kind != Kind.FILE:
        return ""
    if extension == "pdf":
        return "pdf"
    if extension in OFFICE:
        return "office"
    return "plain" if _TYPES.get(extension) in TEXT_TYPES or extension in _PLAIN else ""
