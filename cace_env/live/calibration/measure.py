"""Measurements on a backend: loads, unloads, prompts and tokens, one thing at a time, each with the time it took.

Times are those of a client: what a request takes includes the way to the server and back. Time is the event loop's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import string
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from cace_env.live.backends.base import Backend, BackendError

What = Literal[
    "load warm", "load cold", "unload", "first", "again", "prefill", "cached", "token", "token beside load",
    "token of two busy", "drift prompt begin", "drift prompt end", "drift token begin", "drift token end",
]  # fmt: skip
CHAT: Final = "/v1/chat/completions"
SHORT: Final = 32  # tokens of a prompt that is not what is measured
LETTERS: Final = 4  # of a word
MOST_MOVES: Final = 30  # loads beside which tokens are taken
MOST_TRIES: Final = 5  # of requests of which all tokens came at once, or that were over one after the other
LEAST_BESIDE: Final = 30  # spans of tokens that came while a load went on
# Fast tokens come bunched, so that most gaps are near 0: they are averaged over spans of at least this. A slow one is a
# span of its own, so that medians pass over the few that something held up.
SPAN_S: Final = 0.005
LONG_S: Final = 0.1  # requests whose tokens are timed write for so long,
MOST_TOKENS: Final = 200  # but not more than this unless the plan says so


class Sample(NamedTuple):
    """One measurement.

    Attributes:
        at_s: since the beginning.
        model: name on the server.
        what: was measured.
        seconds: it took. Of `prefill`, `cached`, `first` and `again` the time to the first token; of `token...` the
            time between two tokens of one request.
        batch: requests at once.
        context: tokens of the prompt, as the server counts them.
        cached: tokens of it that the server says it had; 0 where it says nothing.
        tokens: written of the answer.
    """

    at_s: float
    model: str
    what: What
    seconds: float
    batch: int = 1
    context: int = 0
    cached: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        repeats: of each.
        lengths: of prompts [tokens].
        batches: requests at once.
        contexts: prompts in front of tokens that are timed [tokens].
        tokens: written by each of those requests at least; more where they would be over within 0.1 s.
        files: by model, the files of its weights on this machine: cold loads are measured of these alone.
        pairs: whether two models may be loaded at once, which tokens beside a load and two busy engines need.
    """

    repeats: int = 3
    lengths: Sequence[int] = (32, 64, 128, 256, 512)
    batches: Sequence[int] = (1, 2, 4)
    contexts: Sequence[int] = (32, 512)
    tokens: int = 32
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    pairs: bool = True


@dataclass
class _Answer:
    """A streamed answer; `times` of its tokens."""

    sent: float
    times: list[float]
    context: int
    cached: int
    written: int
    texts: int = 0  # events with text

    @property
    def first_s(self) -> float:
        return self.times[0] - self.sent


async def measure(backend: Backend, names: Sequence[str], plan: Plan = Plan()) -> AsyncIterator[Sample]:
    """Measure models of a server that nobody else uses. Models that were resident are so again in the end.

    Args:
        backend: of the server.
        names: of the models, of which the first is also measured at the beginning and the end, for the drift.
        plan: what is measured.

    Yields:
        Measurements, as they are made.

    Raises:
        BackendError: the server is gone, refuses, or answers without text or without the tokens used.
    """
    before = [model.name for model in await backend.models() if model.state == "resident"]
    for name in before:
        await backend.unload(name)
    measuring = _Measuring(backend, plan, asyncio.get_running_loop().time())
    async for sample in measuring.drift(names[0], "drift prompt begin", "drift token begin"):
        yield sample
    for name in names:
        async for sample in measuring.moves(name):
            yield sample
        async for sample in measuring.serving(name):
            yield sample
    if plan.pairs and len(names) > 1:
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            async for sample in measuring.beside(name, other):
                yield sample
    async for sample in measuring.drift(names[0], "drift prompt end", "drift token end"):
        yield sample
    for name in before:
        await backend.load(name)


class _Measuring:
    """A backend, the plan, and prompts of known length that no cache knows."""

    def __init__(self, backend: Backend, plan: Plan, began: float) -> None:
        self._backend, self._plan, self._began = backend, plan, began
        self._rng = random.Random(0)
        self._words: dict[str, tuple[float, float]] = {}  # tokens of an empty prompt, and of a word
        self._tokens_of: dict[str, int] = {}  # written where their times are measured

    async def drift(self, name: str, prompt: What, token: What) -> AsyncIterator[Sample]:
        """The same short measurement at both ends; loaded anew each time, for where its memory lies counts, too."""
        longest = max(self._plan.lengths)
        for _ in range(self._plan.repeats):
            await self._loaded(name)
            await self._ask(name, self._prompt(name, longest), self._tokens_of[name])  # caches and clocks are warm
            answer = await self._ask(name, self._prompt(name, longest), 1)
            yield self._sample(name, prompt, answer.first_s, answer)
            async for sample in self._tokens(name, token, 1, longest):
                yield sample
            await self._backend.unload(name)

    async def moves(self, name: str) -> AsyncIterator[Sample]:
        """Loads and unloads: warm, and cold where the files are known."""
        await self._loaded(name)  # from here on its weights are in the page cache
        await self._backend.unload(name)
        for what in ("load warm", "load cold") if self._plan.files.get(name) else ("load warm",):
            for _ in range(self._plan.repeats):
                if what == "load cold":
                    await asyncio.to_thread(forget, self._plan.files[name])
                begin, end = await self._loading(name)
                yield self._sample(name, what, end - begin)
                first = await self._ask(name, self._prompt(name, SHORT), 1)
                yield self._sample(name, "first", first.first_s, first)
                again = await self._ask(name, self._prompt(name, SHORT), 1)
                yield self._sample(name, "again", again.first_s, again)
                begin = self._now()
                await self._backend.unload(name)
                yield self._sample(name, "unload", self._now() - begin)

    async def serving(self, name: str) -> AsyncIterator[Sample]:
        """Prompts over lengths, prompts of which the server has the beginning, tokens over batches and contexts."""
        await self._loaded(name)
        for _ in range(self._plan.repeats):  # in turn: a slow minute spoils one of each, not all of one
            for length in self._plan.lengths:
                answer = await self._ask(name, self._prompt(name, length), 1)
                yield self._sample(name, "prefill", answer.first_s, answer)
            known = self._prompt(name, max(self._plan.lengths) - SHORT)
            await self._ask(name, known, 1)
            answer = await self._ask(name, f"{known} {self._prompt(name, SHORT)}", 1)
            yield self._sample(name, "cached", answer.first_s, answer)
            for batch in self._plan.batches:
                for context in self._plan.contexts:
                    async for sample in self._tokens(name, "token", batch, context):
                        yield sample
        await self._backend.unload(name)

    async def _tokens(self, name: str, what: What, batch: int, context: int) -> AsyncIterator[Sample]:
        """Gaps between tokens while all requests of the batch are writing."""
        tokens = self._tokens_of[name] * (2 if batch > 1 else 1)  # until the last prompt is read, the first ones write
        for _ in range(MOST_TRIES):
            asked = [self._ask(name, self._prompt(name, context), tokens) for _ in range(batch)]
            answers = await asyncio.gather(*asked)
            begin, end = max(one.times[0] for one in answers), min(one.times[-1] for one in answers)
            gaps = [(answer, gap) for answer in answers for gap in _gaps(answer, begin, end)]
            if gaps:
                break
            tokens = max(tokens, min(2 * tokens, 2 * MOST_TOKENS))
        for answer, gap in gaps:
            yield self._sample(name, what, gap, answer, batch)

    async def beside(self, name: str, other: str) -> AsyncIterator[Sample]:
        """Tokens of one model while another one loads, and while it writes, too."""
        await self._loaded(name)
        found = 0
        for _ in range(MOST_MOVES):
            answer, (begin, end) = await asyncio.gather(
                self._ask(name, self._prompt(name, SHORT), 3 * self._tokens_of[name]), self._loading(other)
            )
            for gap in _gaps(answer, begin, end):
                found += 1
                yield self._sample(name, "token beside load", gap, answer)
            if found >= LEAST_BESIDE:
                break
            await self._backend.unload(other)
        await self._backend.load(other)
        await self._loaded(other)
        for _ in range(self._plan.repeats):
            tokens = 2 * max(self._tokens_of[name], self._tokens_of[other])  # the faster one must not be over first
            asked = [self._ask(one, self._prompt(one, SHORT), tokens) for one in (name, other)]
            answers = await asyncio.gather(*asked)
            begin, end = max(one.times[0] for one in answers), min(one.times[-1] for one in answers)
            for one, answer in zip((name, other), answers, strict=True):
                for gap in _gaps(answer, begin, end):
                    yield self._sample(one, "token of two busy", gap, answer)
        await self._backend.unload(other)
        await self._backend.unload(name)

    async def _loading(self, name: str) -> tuple[float, float]:
        """Begin and end of a load."""
        begin = self._now()
        await self._backend.load(name)
        return begin, self._now()

    async def _loaded(self, name: str) -> None:
        """Loads it and lets it answer once, which the first request after a load takes longer for."""
        await self._backend.load(name)
        if name not in self._words:
            counts = [(await self._ask(name, self._text(words), 1)).context for words in (16, 16, 64)]
            per_word = max((counts[2] - counts[1]) / 48, 1e-3)
            self._words[name] = (counts[1] - 16 * per_word, per_word)
            answer = await self._ask(name, self._text(4), self._plan.tokens)
            gap = (answer.times[-1] - answer.times[0]) / max(1, len(answer.times) - 1)
            enough = min(MOST_TOKENS, round(LONG_S / max(gap, 1e-6)))
            self._tokens_of[name] = max(self._plan.tokens, enough)
        else:
            await self._ask(name, self._text(4), 1)

    def _prompt(self, name: str, tokens: int) -> str:
        """A prompt of about so many tokens, the chat template's included."""
        empty, per_word = self._words[name]
        return self._text(max(1, round((tokens - empty) / per_word)))

    def _text(self, words: int) -> str:
        return " ".join("".join(self._rng.choices(string.ascii_lowercase, k=LETTERS)) for _ in range(words))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _sample(self, name: str, what: What, seconds: float, answer: _Answer | None = None, batch: int = 1) -> Sample:
        at_s = self._now() - self._began
        if answer is None:
            return Sample(at_s, name, what, seconds)
        return Sample(at_s, name, what, seconds, batch, answer.context, answer.cached, answer.written)

    async def _ask(self, name: str, prompt: str, tokens: int) -> _Answer:
        """A streamed answer of so many tokens. Servers that do not know `ignore_eos` may write fewer."""
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        answer = _Answer(self._now(), [], 0, 0, 0)
        rest = b""
        async with aclosing(self._backend.generate(name, CHAT, body)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                self._read(lines, answer)
        if not answer.times or not answer.context:
            raise BackendError(502, f"{self._backend.kind}: an answer came without text, or without the tokens used")
        return answer

    def _read(self, lines: Sequence[bytes], answer: _Answer) -> None:
        """Takes events in; those that came together are spread over the time since the last ones."""
        try:
            events = [json.loads(line[5:]) for line in lines if line.startswith(b"data:") and b"[DONE]" not in line]
            texts = 0
            for event in events:
                texts += any(_text_of(choice.get("delta") or {}) for choice in event.get("choices") or [])
                usage = event.get("usage")
                if usage:
                    answer.context, answer.written = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
                    details = usage.get("prompt_tokens_details") or {}
                    answer.cached = int(details.get("cached_tokens") or 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(502, f"{self._backend.kind}: an event of a stream is not understood") from error
        answer.texts += texts
        if texts and not answer.times:
            answer.times.append(self._now())
        elif texts:
            answer.times += np.linspace(answer.times[-1], self._now(), texts + 1)[1:].tolist()


def _text_of(delta: Mapping[str, object]) -> bool:
    """Whether an event brings text, thought or answer."""
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


def _gaps(answer: _Answer, begin: float, end: float) -> list[float]:
    """Times between tokens from `begin` to `end`, averaged over spans; where some tokens brought no text, of all."""
    scale = min(1.0, answer.texts / answer.written) if answer.written else 1.0
    inside = [time for time in answer.times if begin <= time <= end]
    return [scale * (last - first) / count for first, last, count in spans(inside)]


def spans(times: Sequence[float]) -> Iterator[tuple[float, float, int]]:
    """Begin, end and number of gaps of the spans that times of tokens are averaged over, each of SPAN_S at least."""
    at = 0
    for index in range(1, len(times)):
        if times[index] - times[at] >= SPAN_S:
            yield times[at], times[index], index - at
            at = index


def forget(files: Sequence[Path]) -> None:
    """Ask the kernel to drop files from its page cache, so that the next load reads the disk; needs no privilege.

    It has no effect on file systems that live in memory, and on files that a process has mapped.
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not on disk yet stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
