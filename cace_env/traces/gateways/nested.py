"""The rows in logs whose elements hold several: spans of OpenTelemetry, steps of an agent's session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def spans_of(element: Mapping[str, Any]) -> Iterator[Any]:
    """The spans of an entry of OTLP JSON as flat rows: name, times, status and attributes."""
    for entry in _objects(element.get("resourceSpans", [element])):
        for scope in _objects(entry.get("scopeSpans", entry.get("instrumentationLibrarySpans"))):
            spans = scope.get("spans")
            for span in spans if isinstance(spans, list) else ():
                if not isinstance(span, dict):
                    yield span
                    continue
                row = {
                    str(attribute.get("key")): _scalar(attribute.get("value"))
                    for attribute in _objects(span.get("attributes"))
                }
                status = span.get("status")
                row |= {name: span.get(name) for name in ("name", "startTimeUnixNano", "endTimeUnixNano")}
                row["status"] = status.get("code") if isinstance(status, dict) else None
                name = row["name"]
                row["operation"] = (
                    row.get("gen_ai.operation.name")
                    or row.get("llm.request.type")
                    or (name if name == "llm_request" else None)
                )
                yield row


def steps_of(element: Mapping[str, Any]) -> Iterator[Any]:
    """The requests of a session of FreeInference as rows that name their session and user."""
    owner = {name: element.get(name) for name in ("session_id", "user_id")}
    requests = element.get("requests")
    for request in requests if isinstance(requests, list) else ():
        yield {**request, **owner} if isinstance(request, dict) else request


def _objects(value: Any) -> Iterable[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _scalar(value: Any) -> Any:
    """The value of an OTLP attribute; lists and objects are not needed and stay out."""
    if isinstance(value, dict):
        for kind in ("stringValue", "intValue", "doubleValue", "boolValue"):
            if kind in value:
                return value[kind]
    return None
