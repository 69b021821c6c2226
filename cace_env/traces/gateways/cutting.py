"""Cuts a file into blocks of whole rows, and a JSON list into its elements, without holding more than one of them."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from cace_env.traces.limits import Limits, TraceError

BLOCK: Final = 8 << 20  # bytes
ELEMENTS: Final = "data|observations|spans|requests|logs|rows|resourceSpans"  # what a list is called inside an object
WRAPPED: Final = re.compile(rf'\s*\{{\s*"({ELEMENTS})"\s*:\s*\[')
LONGEST_OPENING: Final = 1_000  # characters of what `WRAPPED` matches, blanks included
_BLANK: Final = re.compile(r"[ \t\r\n]*")
# Numbers stay text: one of 5,000 digits must not stop anything.
DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


def cut(file: BinaryIO, limits: Limits, quoted: bool) -> Iterator[bytes | None]:
    """Blocks of whole rows, each ending in a line end; None in place of a row that is too long or never ends.

    Args:
        file: to be read from where it stands.
        limits: how long a row may be.
        quoted: line ends inside double quotes belong to a row.
    """
    size = min(BLOCK, limits.row_bytes)
    rest = b""
    while chunk := file.read(size):
        rest += chunk
        end = _last_end(rest, quoted)
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > limits.row_bytes:
            yield None
            rest = _after_line(rest, file, size)
    while rest:
        if end := _last_end(rest, quoted):
            yield rest[:end]
            rest = rest[end:]
        elif quoted and rest.count(b'"') % 2:  # a quote that is never closed
            yield None
            rest = rest.partition(b"\n")[2]
        else:
            yield rest + b"\n"
            rest = b""


def _last_end(rest: bytes, quoted: bool) -> int:
    """Where the last whole row ends, 0 if none does: after a line end with an even number of quotes before it."""
    if not quoted:
        return rest.rfind(b"\n") + 1
    odd, end = rest.count(b'"') % 2, len(rest)
    while (at := rest.rfind(b"\n", 0, end)) >= 0:
        odd = (odd + rest.count(b'"', at, end)) % 2
        if not odd:
            return at + 1
        end = at
    return 0


def _after_line(rest: bytes, file: BinaryIO, size: int) -> bytes:
    """What follows the first line end; what stands before it is dropped unread."""
    while b"\n" not in rest:
        rest = file.read(size)
        if not rest:
            return b""
    return rest.partition(b"\n")[2]


class _Text:
    """A growing piece of a JSON file, and a place in it."""

    def __init__(self, file: BinaryIO, path: Path, longest: int) -> None:
        self.file, self.path, self.longest = file, path, longest
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended, self.count = "", 0, False, 0

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        chunk = self.file.read(BLOCK)
        self.ended = not chunk
        self.text = self.text[self.at :] + self.decoder.decode(chunk, final=self.ended)
        self.at = 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is no blank, "" at the end."""
        while True:
            self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def broken(self, what: str) -> TraceError:
        return TraceError(
            f"{self.path}: its JSON {what} after element {self.count}; export it again, one object a line"
        )

    def value(self, before: str = "") -> Any:
        """The JSON value that begins here; `before` completes it on the left."""
        while True:
            try:
                found, end = DECODER.raw_decode(
                    before + self.text[self.at :] if before else self.text, 0 if before else self.at
                )
                end += self.at - len(before) if before else 0
                if end < len(self.text) or self.ended:
                    self.at = end
                    return found
            except RecursionError:
                raise self.broken("is nested too deep") from None
            except ValueError:
                if self.ended:
                    raise self.broken("is cut short or damaged") from None
            if len(self.text) - self.at > self.longest:
                raise self.broken(f"has a value longer than {self.longest / 1e6:g} MB, or is damaged")
            self.more()


def elements(file: BinaryIO, path: Path, limits: Limits) -> Iterator[Any]:
    """The elements of a JSON list, alone or as a known key of an object, or of several such objects in a row.

    Raises:
        TraceError: it is something else, damaged, or an element is too long.
    """
    text = _Text(file, path, limits.row_bytes)
    while start := text.peek():
        wrapped = start == "{"
        if wrapped:
            found = WRAPPED.match(text.text, text.at)
            while found is None and len(text.text) - text.at < LONGEST_OPENING and text.more():
                found = WRAPPED.match(text.text, text.at)
            if found is None:
                raise text.broken("has something else than a list of requests")
            text.at = found.end()
        elif start == "[":
            text.at += 1
        else:
            raise text.broken("has something else than a list of requests")
        while (sign := text.peek()) != "]":
            if sign == ",":
                text.at += 1
            elif sign == "":
                raise text.broken("is cut short")
            else:
                element = text.value()
                text.count += 1
                yield element
        text.at += 1
        if wrapped and text.peek() == ",":  # what follows the list in its object
            text.at += 1
            text.peek()
            text.value(before="{")
        elif wrapped and text.peek() == "}":
            text.at += 1
