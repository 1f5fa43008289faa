"""Described: the page that shows an OpenAPI description to a person: no script, nothing from elsewhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec
from litestar import Litestar
from litestar.routes import HTTPRoute

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}h3{margin:2em 0 .3em}"
    "table{border-collapse:collapse;width:100%}td{padding:.2em .5em;border-bottom:1px solid #ddd;vertical-align:top}"
    "td:first-child{white-space:nowrap}p{margin:.3em 0}"
)
_HOW = (
    '<p>Send <code>Authorization: Bearer TOKEN</code> with each request. <a href="/docs/openapi.json">openapi.json</a>'
    " has all of this for programs. A refusal is a Problem: <code>code</code>, <code>message</code>.</p>"
)
Json = dict[str, Any]  # a description has many shapes


def tell_strict(app: Litestar) -> None:
    """Has the description say of messages with a fixed set of fields that there are no others."""
    schemas = app.openapi_schema.components.schemas or {}
    for handler in (
        handler for route in app.routes if isinstance(route, HTTPRoute) for handler in route.route_handlers
    ):
        body = handler.parsed_fn_signature.parameters.get("data")
        for kind in _structs(body.annotation) if body is not None else ():
            if kind.__struct_config__.forbid_unknown_fields and kind.__name__ in schemas:
                schemas[kind.__name__].additional_properties = False


def _structs(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that a body is made of."""
    waiting: list[Any] = [msgspec.inspect.type_info(annotation)]
    seen: set[type] = set()
    while waiting:
        told = waiting.pop()
        if isinstance(told, msgspec.inspect.StructType) and told.cls not in seen:
            seen.add(told.cls)
            yield told.cls
            waiting += [field.type for field in told.fields]
        elif isinstance(told, msgspec.inspect.ListType):
            waiting.append(told.item_type)
        elif isinstance(told, msgspec.inspect.UnionType):
            waiting += told.types


def api_page(description: Json) -> bytes:
    """The page of a whole description."""
    info = description["info"]
    parts = [
        f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('description', ''))}</p>",
        _HOW,
    ]
    for path, methods in sorted(description["paths"].items()):
        parts += [_operation(path, method, one) for method, one in methods.items() if isinstance(one, dict)]
    parts.append("<h2>Messages</h2>")
    schemas = description.get("components", {}).get("schemas", {})
    parts += [_schema(name, one) for name, one in sorted(schemas.items())]
    head = f'<meta charset="utf-8"><title>{escape(info["title"])}: API</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>'.encode()


def _operation(path: str, method: str, one: Json) -> str:
    rows = [
        (
            f"{parameter['name']}{'' if parameter.get('required') else '?'}",
            f"{_type(parameter.get('schema', {}))}. {parameter.get('description', '')}",
        )
        for parameter in one.get("parameters", [])
    ]
    body = one.get("requestBody", {}).get("content", {})
    rows += [("body", _type(content.get("schema", {}))) for content in body.values()]
    for status, response in sorted(one.get("responses", {}).items()):
        if status.startswith("2"):
            rows += [(status, _type(content.get("schema", {}))) for content in response.get("content", {}).values()]
    title = f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3><p>{escape(one.get('summary', ''))}</p>"
    return title + _table(rows)


def _schema(name: str, one: Json) -> str:
    required = set(one.get("required", []))
    rows = [
        (f"{field}{'' if field in required else '?'}", _type(schema))
        for field, schema in one.get("properties", {}).items()
    ]
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(one.get("description", ""))}</p>{_table(rows)}'


def _table(rows: list[tuple[str, str]]) -> str:
    cells = (f"<tr><td><code>{escape(name)}</code></td><td>{escape(text)}</td></tr>" for name, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    for word in ("oneOf", "anyOf"):
        if word in schema:
            return " or ".join(_type(one) for one in schema[word])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
