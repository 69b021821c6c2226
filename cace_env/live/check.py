"""Whether a real server does what its backend takes for granted: a conformance run, claim by claim."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from cace_env.config import one_line
from cace_env.live.backends.base import Backend, BackendError, BackendModel, state_of

CHAT: Final = "/v1/chat/completions"
PROMPT: Final = "Write a function that adds two numbers."
MARK: Final = "zebra-7391"  # stands in prompts that are refused; no error may repeat it
ABSENT: Final = "no-such-model-7391"
SHORT, LONG, ENDLESS = 16, 64, 4000  # tokens
TOGETHER: Final = 4  # requests at once to each model
ENDS_S: Final = 60.0  # any request here
WAITS_S: Final = 1.0  # behind what a server does before it sees that a client has gone
LASTS_S: Final = 0.1  # a stream of which anything can be said
GONE: Final = ("absent", "asleep")


@dataclass(frozen=True)
class Outcome:
    """What became of one claim.

    Attributes:
        claim: what should hold.
        holds: None where it is no question of right or wrong: `detail` says what the server does.
        detail: numbers, or what happened instead.
    """

    claim: str
    holds: bool | None
    detail: str


class _Broken(Exception):
    """A claim does not hold, and why."""


class _Note(Exception):
    """Something worth knowing that is neither right nor wrong."""


Step = Callable[["_Check"], Awaitable[str]]


async def check_backend(backend: Backend, names: Sequence[str] = ()) -> AsyncIterator[Outcome]:
    """Try everything that a router needs, on two models, and leave every model as it was.

    Loads, unloads, generates a few thousand tokens at most. Nobody else should use the server meanwhile.

    Args:
        backend: to try.
        names: of the two models; by default the two smallest, or the first two where nothing says how large they are.

    Yields:
        Each claim as it has been tried. After the first that the rest depends on and that fails, no more.
    """
    began = time.monotonic()
    try:
        listed = await backend.models()
    except BackendError as error:
        yield Outcome("it lists its models", False, error.message)
        return
    known = sum(model.memory_bytes is not None for model in listed)
    detail = f"{len(listed)} models, the memory of {known} known, {_ms(time.monotonic() - began)}"
    yield Outcome("it lists its models", len({model.name for model in listed}) == len(listed) > 0, detail)
    chosen = _chosen(listed, names)
    if isinstance(chosen, str):
        yield Outcome("two models can be tried", False, chosen)
        return
    check = _Check(backend, *chosen)
    for claim, step, needed in STEPS:
        outcome = await _tried(claim, step, check)
        yield outcome
        if needed and outcome.holds is False:
            break
    yield await _tried("every model is left as it was", lambda _: _restored(backend, listed), check)


@dataclass
class _Check:
    """What the steps share."""

    backend: Backend
    first: str
    second: str
    prompt_tokens: int = 0

    async def answer(self, name: str, tokens: int, prompt: str = PROMPT, **more: Any) -> bytes:
        """The whole answer to a request for so many tokens.

        Raises:
            BackendError: refused, or broken off.
            TimeoutError: it does not end.
        """
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0, **more}
        async with asyncio.timeout(ENDS_S), aclosing(self.backend.generate(name, CHAT, body)) as pieces:
            return b"".join([piece async for piece in pieces])

    def stream(self, name: str, tokens: int) -> AsyncGenerator[bytes, None]:
        """The same as events; the caller closes it."""
        messages = [{"role": "user", "content": PROMPT}]
        return self.backend.generate(
            name, CHAT, {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
        )

    async def document(self, name: str, tokens: int, prompt: str = PROMPT) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.answer(name, tokens, prompt))
        return answer


async def _tried(claim: str, step: Step, check: _Check) -> Outcome:
    try:
        return Outcome(claim, True, await step(check))
    except _Note as note:
        return Outcome(claim, None, str(note))
    except _Broken as error:
        return Outcome(claim, False, str(error))
    except BackendError as error:
        return Outcome(claim, False, error.message)
    except StopAsyncIteration:
        return Outcome(claim, False, "the answer is empty")
    except TimeoutError:
        return Outcome(claim, False, f"it took longer than {ENDS_S:g} s")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return Outcome(claim, False, f"the answer has another shape ({type(error).__name__})")


def _chosen(listed: list[BackendModel], names: Sequence[str]) -> tuple[str, str] | str:
    """The two models to try, or why there are none."""
    there = {model.name for model in listed}
    if names:
        if len(set(names)) != 2 or not there.issuperset(names):
            return "name two models of the server"
        return names[0], names[1]
    if len(listed) < 2:
        return "the server has fewer than two"
    small = sorted(listed, key=lambda model: model.memory_bytes if model.memory_bytes is not None else 1 << 62)
    return small[0].name, small[1].name


async def _load_first(check: _Check) -> str:
    await check.backend.unload(check.first)  # cold, and an unload of what may be absent does no harm
    return await _loaded(check.backend, check.first)


async def _load_second(check: _Check) -> str:
    detail = await _loaded(check.backend, check.second)
    if await state_of(check.backend, check.first) != "resident":
        raise _Broken("the first model has left: the server evicts by itself")
    return detail


async def _loaded(backend: Backend, name: str) -> str:
    began = time.monotonic()
    await backend.load(name)
    took = time.monotonic() - began
    state = await state_of(backend, name)
    if state != "resident":
        raise _Broken(f"it is {state} after the load")
    return f"{one_line(name)}, {_ms(took)}"


async def _load_again(check: _Check) -> str:
    return await _loaded(check.backend, check.first)


async def _whole(check: _Check) -> str:
    began = time.monotonic()
    usage = (await check.document(check.first, SHORT))["usage"]
    check.prompt_tokens = int(usage["prompt_tokens"])
    written = int(usage["completion_tokens"])
    if check.prompt_tokens < 1 or not 1 <= written <= SHORT:
        raise _Broken(f"usage says {check.prompt_tokens} prompt tokens and {written} written of {SHORT}")
    return f"{check.prompt_tokens} prompt tokens, {written} written, {_ms(time.monotonic() - began)}"


async def _streamed(check: _Check) -> str:
    """More tokens until it takes a while: a tiny model writes a hundred before anybody can read the first."""
    for tokens in (LONG, 8 * LONG, 32 * LONG):
        times, pieces = [], []
        began = time.monotonic()
        async with asyncio.timeout(ENDS_S), aclosing(check.stream(check.first, tokens)) as stream:
            async for piece in stream:
                times.append(time.monotonic() - began)
                pieces.append(piece)
        if len(pieces) > 1 and times[-1] > LASTS_S:
            break
    events = _events(b"".join(pieces))
    if len(pieces) < 2 or len(events) < 2:
        raise _Broken(f"it came in {len(pieces)} pieces with {len(events)} events: it does not stream")
    if events[-1] != "[DONE]":
        raise _Broken("the last event is not [DONE]")
    for event in events[:-1]:
        json.loads(event)
    return f"{len(events)} events in {len(pieces)} pieces, first {_ms(times[0])}, last {_ms(times[-1])}"


async def _stream_usage(check: _Check) -> str:
    answer = await check.answer(check.first, SHORT, stream=True, stream_options={"include_usage": True})
    usages = [usage for event in _events(answer)[:-1] if (usage := json.loads(event).get("usage"))]
    if not usages:
        raise _Broken("no event has usage")
    if int(usages[-1]["prompt_tokens"]) != check.prompt_tokens:
        raise _Broken(
            f"{usages[-1]['prompt_tokens']} prompt tokens, but {check.prompt_tokens} of the same not streamed"
        )
    return f"{usages[-1]['prompt_tokens']} prompt tokens, {usages[-1]['completion_tokens']} written"


async def _longer_prompt(check: _Check) -> str:
    added = " ".join("and" for _ in range(50))
    usage = (await check.document(check.first, 1, f"{PROMPT} {added}"))["usage"]
    more = int(usage["prompt_tokens"]) - check.prompt_tokens
    if more < 25:
        raise _Broken(f"fifty words more are {more} tokens more")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return f"fifty words more are {more} tokens more; cached tokens: {'not told' if cached is None else cached}"


async def _together(check: _Check) -> str:
    began = time.monotonic()
    await check.document(check.first, LONG)
    alone = time.monotonic() - began
    began = time.monotonic()
    models = [check.first, check.second] * TOGETHER
    answers = await asyncio.gather(*(check.document(name, LONG) for name in models))
    took = time.monotonic() - began
    if any(int(answer["usage"]["completion_tokens"]) < 1 for answer in answers):
        raise _Broken("some wrote nothing")
    return f"{len(models)} at once took {_ms(took)}, one alone {_ms(alone)}"


async def _cancelled(check: _Check) -> str:
    """More streams than most servers have seats: one that goes on writing for nobody keeps the next request waiting."""

    async def begun() -> None:
        async with aclosing(check.stream(check.first, ENDLESS)) as stream:
            await anext(stream)

    await check.answer(check.first, 1)
    began = time.monotonic()
    await check.answer(check.first, 1)
    alone = time.monotonic() - began
    async with asyncio.timeout(ENDS_S):
        await asyncio.gather(*(begun() for _ in range(2 * TOGETHER)))
    began = time.monotonic()
    await check.answer(check.first, 1)
    took = time.monotonic() - began
    detail = f"the next request took {_ms(took)}, before them {_ms(alone)}"
    if took > WAITS_S + 10 * alone:
        raise _Broken(detail)
    return detail


async def _unload_beside(check: _Check) -> str:
    """The second model leaves while the first one writes, which has to go on or end in order."""
    async with asyncio.timeout(ENDS_S), aclosing(check.stream(check.first, ENDLESS)) as stream:
        answer = await anext(stream)
        began = time.monotonic()
        await check.backend.unload(check.second)
        took = time.monotonic() - began
        async for piece in stream:
            answer += piece
            if time.monotonic() - began > took + LASTS_S:
                break
        else:
            if _events(answer)[-1:] != ["[DONE]"]:
                raise _Broken("the stream of the other model was cut")
    state = await state_of(check.backend, check.second)
    if state not in GONE:
        raise _Broken(f"it is {state} after the unload")
    return f"{_ms(took)}, {state} afterwards"


async def _unload_again(check: _Check) -> str:
    await check.backend.unload(check.second)
    return await state_of(check.backend, check.second)


async def _not_loaded(check: _Check) -> str:
    try:
        await check.answer(check.second, 1)
    except BackendError as error:
        raise _Note(f"it refuses: {error.message}") from error
    state = await state_of(check.backend, check.second)
    raise _Note(f"it answers, and the model is {state}: only the router keeps such requests away")


async def _unknown_model(check: _Check) -> str:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "load": lambda: check.backend.load(ABSENT),
        "unload": lambda: check.backend.unload(ABSENT),
        "generate": lambda: check.answer(ABSENT, 1),
    }
    said = []
    for name, call in calls.items():
        try:
            await call()
        except BackendError as error:
            said.append(f"{name} {error.status}")
        else:
            raise _Broken(f"{name} of a model that does not exist is no error")
    return ", ".join(said)


async def _bad_body(check: _Check) -> str:
    try:
        async with (
            asyncio.timeout(ENDS_S),
            aclosing(check.backend.generate(check.first, CHAT, {"messages": MARK})) as no,
        ):
            await anext(no)
    except BackendError as error:
        if MARK in error.message or not 400 <= error.status < 600:
            raise _Broken(f"the error repeats the prompt, or its status {error.status} is none") from error
        again = await check.answer(check.first, 1)
        return f"{error.message}; the next request got {len(again)} bytes"
    raise _Broken("messages that are no list are no error")


async def _unload_first(check: _Check) -> str:
    began = time.monotonic()
    await check.backend.unload(check.first)
    took = time.monotonic() - began
    state = await state_of(check.backend, check.first)
    if state not in GONE:
        raise _Broken(f"it is {state} after the unload")
    return f"{_ms(took)}, {state} afterwards"


async def _warm(check: _Check) -> str:
    return await _loaded(check.backend, check.first)


async def _restored(backend: Backend, listed: list[BackendModel]) -> str:
    """Models that were resident are loaded again, others unloaded."""
    now = {model.name: model.state for model in await backend.models()}
    for model in listed:
        before, after = model.state == "resident", now.get(model.name) == "resident"
        if before != after:
            await (backend.load if before else backend.unload)(model.name)
    return f"{sum(model.state == 'resident' for model in listed)} resident"


def _events(answer: bytes) -> list[str]:
    """The data of each server-sent event."""
    lines = answer.decode("utf-8").splitlines()
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


# Claim, how it is tried, and whether the rest makes no sense without it.
STEPS: Final[tuple[tuple[str, Step, bool], ...]] = (
    ("a model is loaded when load() returns", _load_first, True),
    ("a second one is loaded beside it", _load_second, True),
    ("loading a loaded model does no harm", _load_again, False),
    ("a request is answered, with the tokens used", _whole, True),
    ("a stream comes piece by piece and ends with [DONE]", _streamed, False),
    ("a stream tells the same tokens used", _stream_usage, False),
    ("a longer prompt has more tokens", _longer_prompt, False),
    ("requests to both models at once are all answered", _together, False),
    ("cancelled streams do not hold up the next request", _cancelled, False),
    ("unloading one model cuts no stream of the other", _unload_beside, False),
    ("unloading an absent model does no harm", _unload_again, False),
    ("a request to an absent model", _not_loaded, False),
    ("a model that does not exist is an error", _unknown_model, False),
    ("a bad body is an error that repeats none of it", _bad_body, False),
    ("an unloaded model is gone when unload() returns", _unload_first, False),
    ("it can be loaded again", _warm, False),
)
