"""OpenAI's description of its API, made judgeable: pinned to one served model and to small answers.

As it stands it is no judge of a server: nearly every generated call would name a model that nobody serves, send no
prompt or ids of no vocabulary, stream, or ask for a whole context; it documents no error but 429; and it says that an
echoed prompt's first log-probability is a number, where every client expects null. Nothing else is touched.
"""

from copy import deepcopy
from typing import Any

MAX_TOKENS = 8
MAX_RESPONSE_TOKENS = 16
"""The least that the description lets a client ask of /responses."""
MAX_N = 2
_CAPS = {"max_tokens": MAX_TOKENS, "max_completion_tokens": MAX_TOKENS, "max_output_tokens": MAX_RESPONSE_TOKENS}
_NEEDED = {
    "/completions": "max_tokens",
    "/chat/completions": "max_completion_tokens",
    "/responses": "max_output_tokens",
}
"""Path -> the cap without which an answer might fill the context."""
_INPUT = {"/completions": "prompt", "/responses": "input"}
_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 99}}
_PROMPT = {"anyOf": [_TEXT, _IDS, *({"type": "array", "minItems": 1, "items": one} for one in (_TEXT, _IDS))]}


def pinned(description: dict[str, Any], model: str) -> dict[str, Any]:
    """A copy of ``description`` for a server of ``model`` that asks for a key."""
    pinned = deepcopy(description)
    schemas = pinned["components"]["schemas"]
    for path, methods in pinned["paths"].items():
        for operation in methods.values():
            for status in ("4XX", "5XX"):
                operation["responses"][status] = {
                    "description": "an error",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
                }
            if "requestBody" in operation:
                for content in operation["requestBody"]["content"].values():
                    pins = _pins(model) | ({"prompt": _PROMPT} if path == "/completions" else {})
                    _pin(content["schema"], schemas, pins)
                    needed = [name for name in (_NEEDED.get(path), _INPUT.get(path)) if name]
                    content["schema"] = {"allOf": [content["schema"], {"required": needed}]}
        for parameter in (p for o in methods.values() for p in o.get("parameters", ())):
            if path == "/models/{model}" and parameter["name"] == "model":
                parameter["schema"] = {"anyOf": [{"enum": [model]}, {"type": "string"}]}
    _let_echo_be_null(schemas)
    if "InputParam" in schemas:
        text, items = schemas["InputParam"]["oneOf"]
        schemas["InputParam"]["oneOf"] = [text | {"minLength": 1}, items | {"minItems": 1}]
    pinned["components"]["securitySchemes"] = {"ApiKeyAuth": {"type": "http", "scheme": "bearer"}}
    pinned["security"] = [{"ApiKeyAuth": []}]
    return pinned


def capped(path: str, body: Any, model: str) -> Any:
    """``body`` with the pins, which data that is wrong on purpose does not keep to."""
    if not isinstance(body, dict):
        return body
    body = {**body, _NEEDED[path]: body.get(_NEEDED[path], _CAPS[_NEEDED[path]])} if path in _NEEDED else dict(body)
    for name, most in {**_CAPS, "n": MAX_N}.items():
        if type(body.get(name)) is int:
            body[name] = min(body[name], most)
        elif name == _NEEDED.get(path) and body[name] is None:  # null is "as much as there is room for"
            body[name] = most
    if body.get("stream") is True:
        body["stream"] = False
    if isinstance(body.get("model"), str):
        body["model"] = model
    return body


def _pins(model: str) -> dict[str, Any]:
    def upto(most: int) -> dict[str, Any]:
        return {"type": "integer", "minimum": 16 if most == MAX_RESPONSE_TOKENS else 1, "maximum": most}

    return {
        "model": {"enum": [model]},
        "stream": {"enum": [False]},
        "stream_options": {"type": "null"},
        "encoding_format": {"enum": ["float"]},
        "n": {"type": "integer", "minimum": 1, "maximum": MAX_N},
        **{name: upto(most) for name, most in _CAPS.items()},
    }


def _pin(schema: dict[str, Any], schemas: dict[str, Any], pins: dict[str, Any]) -> None:
    """Replace the pinned properties of an object, of all that it is made of too."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for part in schema.get("allOf", ()):
        _pin(part, schemas, pins)
    properties = schema.get("properties", {})
    properties.update({name: pin for name, pin in pins.items() if name in properties})


def _let_echo_be_null(schemas: dict[str, Any]) -> None:
    if "CreateCompletionResponse" not in schemas:
        return
    choice = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]
    logprobs = choice["properties"]["logprobs"]["anyOf"][0]["properties"]
    for name in ("token_logprobs", "top_logprobs"):
        logprobs[name]["items"] = {"anyOf": [logprobs[name]["items"], {"type": "null"}]}
