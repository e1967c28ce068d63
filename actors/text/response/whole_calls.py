"""Tool calls that are read when they close: bodies of ``kv-lines`` or text, and transforms that do not stream."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from . import content_kinds
from .calls import CallEvent, dumps
from .casting import ToolTypes, cast
from .patterns import Pattern
from .scanner import Scanner, Watch


class WholeCalls:
    """See ``CallReader``. Without a closing delimiter the body ends with the text."""

    is_closed = False

    def __init__(
        self, kind: str, args: Mapping[str, Any], transform: Any, close: Pattern | None, groups: Mapping[str, str],
        types: ToolTypes, *, is_each: bool,
    ) -> None:  # fmt: skip
        self.state: Literal["more", "done", "failed"] = "more"
        self.rest = ""
        self._kind = kind
        self._args = args
        self._transform = transform
        self._groups = groups
        self._types = types
        self._is_each = is_each
        self._scanner = Scanner(Watch([close] if close is not None else []))
        self._body: list[str] = []

    def feed(self, text: str, *, is_last: bool = False) -> list[CallEvent]:
        """See ``CallReader``."""
        before, hit, self.rest = self._scanner.feed(text, is_last=is_last)
        self._body.append(before)
        if hit is None and not is_last:
            return []
        self.is_closed = True
        body = "".join(self._body)
        try:
            groups = self._groups if hit is None else {**self._groups, **hit.groups}
            calls = list(self._calls(body, groups))
        except (ValueError, RecursionError):
            calls = []
        self.state = "done" if calls else "failed"
        if not calls:
            self.rest = (hit.text if hit is not None else "") + self.rest
        events: list[CallEvent] = []
        for name, arguments in calls:
            events.extend([("begin", name), ("arguments", dumps(arguments)), ("end", "")])
        return events

    def _calls(self, body: str, groups: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The calls of a body.

        Raises:
            ValueError: it holds none.
        """
        value = content_kinds.parse(self._kind, body, self._args)
        if self._transform is None:
            shaped = value if isinstance(value, list) else [value]
        elif self._is_each:
            items = value if isinstance(value, list) else [value]
            scopes = [{**groups, **item} if isinstance(item, dict) else dict(groups) for item in items]
            shaped = [content_kinds.apply_transform(self._transform, scope) for scope in scopes]
        else:
            shaped = [content_kinds.apply_transform(self._transform, {**groups, "content": value})]
        for one in shaped:
            function = one.get("function") if isinstance(one, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            arguments = function.get("arguments") if isinstance(function, dict) else None
            if not isinstance(name, str) or name not in self._types or not isinstance(arguments, dict):
                raise ValueError("no call to a tool that is offered")
            yield name, {key: self._cast(name, key, v) for key, v in arguments.items()}

    def _cast(self, name: str, key: str, value: Any) -> Any:
        types = self._types.of(name, key)
        if isinstance(value, list) and "array" not in types:
            return [cast(v, types) if isinstance(v, str) else v for v in value]
        return cast(value, types) if isinstance(value, str) else value
