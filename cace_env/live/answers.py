"""What a server's answer says of itself, read while it passes through: tokens, as they come and in total."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

MOST_BYTES: Final = 1 << 22  # of a line, or of an answer in one piece; what is longer is passed on, and not read
BYTES_PER_TOKEN: Final = 4  # of a prompt, before a server has counted it: a rule of thumb for text and code
DATA: Final = b"data:"


class Answer:
    """Counts the tokens of one answer.

    Of a stream every event with text is a token, which is what the servers send; the number in `usage`, where there is
    one, is what counts in the end. An answer in one piece has its first token when it comes, because nothing earlier is
    known.

    Args:
        streams: whether the request asked for a stream.

    Attributes:
        tokens: so far.
    """

    def __init__(self, streams: bool) -> None:
        self.tokens = 0
        self._streams, self._rest, self._told = streams, b"", 0
        self._too_long = False

    def feed(self, piece: bytes) -> int:
        """The next piece; how many tokens it has brought."""
        before = self.tokens
        if not self._streams:
            self.tokens = max(self.tokens, 1)
        if self._too_long:
            return self.tokens - before
        self._rest += piece
        if self._streams:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._read(line.strip())
        if len(self._rest) > MOST_BYTES:
            self._too_long, self._rest = True, b""
        return self.tokens - before

    @property
    def total(self) -> int:
        """Tokens of the whole answer, at least 1: as the server counted them, else those that came."""
        if not self._streams and self._rest:
            self._look(_parsed(self._rest))
        return max(self._told or self.tokens, 1)

    def _read(self, line: bytes) -> None:
        if not line.startswith(DATA) or line.endswith(b"[DONE]"):
            return
        event = _parsed(line[len(DATA) :])
        self._look(event)
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and (choice.get("text") or _has_text(choice.get("delta"))):
                self.tokens += 1
                return

    def _look(self, document: Mapping[str, Any]) -> None:
        usage = document.get("usage")
        told = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        if isinstance(told, int) and told > 0:
            self._told = told


def _has_text(delta: object) -> bool:
    """Whether a part of a chat's answer is more than the role that opens it."""
    return isinstance(delta, Mapping) and any(value for key, value in delta.items() if key != "role")


def _parsed(content: bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one where it is none: what is passed through need not be understood."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """A guess at the length of a prompt: no server has counted it yet."""
    return max(1, -(-_text_bytes(body.get("messages", body.get("prompt"))) // BYTES_PER_TOKEN))


def _text_bytes(value: object) -> int:
    """Bytes of all text in a value; a list of numbers is a prompt given as tokens."""
    total, waiting = 0, [value]
    while waiting:  # and no recursion: a client may nest as deeply as it likes
        each = waiting.pop()
        if isinstance(each, str):
            total += len(each.encode("utf-8", "surrogatepass"))
        elif isinstance(each, int):
            total += BYTES_PER_TOKEN
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return total


def most_tokens(body: Mapping[str, Any]) -> int | None:
    """The longest answer that a request allows, if it says so."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
