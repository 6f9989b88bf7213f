"""The page at ``/docs``: what OpenAPI says of the service, in tables that ask nothing of others."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def operations(api: Schema) -> Iterator[dict[str, Any]]:
    """Yield each operation: method, path, what it does, its parameters, body and answers.

    Args:
        api: the service's OpenAPI document.
    """
    for path, methods in api["paths"].items():
        for method, one in methods.items():
            body = one.get("requestBody", {})
            yield {
                "method": method.upper(),
                "path": path,
                "what": one.get("description") or one.get("summary", ""),
                "parameters": [
                    {
                        "name": row["name"],
                        "place": row["in"],
                        "required": row.get("required", False),
                        "type": said(row.get("schema", {})),
                        "what": row.get("description", ""),
                    }
                    for row in one.get("parameters", ())
                ],
                "body": _named(body),
                "answers": [
                    {"status": status, "what": row.get("description", ""), "schema": _named(row)}
                    for status, row in one.get("responses", {}).items()
                ],
            }


def schemas(api: Schema) -> Iterator[dict[str, Any]]:
    """Yield each kind of body: its name, what it is, and its fields.

    Args:
        api: the service's OpenAPI document.
    """
    for name, one in api.get("components", {}).get("schemas", {}).items():
        required = set(one.get("required", ()))
        yield {
            "name": name,
            "what": one.get("description", ""),
            "fields": [
                {
                    "name": field,
                    "required": field in required,
                    "type": said(value),
                    "what": value.get("description", ""),
                }
                for field, value in one.get("properties", {}).items()
            ],
        }


def said(schema: Schema) -> str:
    """Return in words what values a schema accepts."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(said(one) for one in schema[key])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(repr, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {said(schema.get('items', {}))}"
    limits = ", ".join(f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema)
    return f"{kind}, {limits}" if limits else kind


LIMITS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "minLength": "characters from",
    "maxLength": "characters to",
    "minItems": "entries from",
    "maxItems": "entries to",
    "maxProperties": "keys to",
}
"""What a schema may demand of a value, in words."""


def _named(part: Schema) -> str:
    """Return the name of the schema that a body or an answer holds; empty for none."""
    content = part.get("content", {}).get("application/json", {})
    return str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
