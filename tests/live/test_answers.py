"""What is read of answers while they pass through: tokens, whatever the pieces are."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cace_env.live.answers import MOST_BYTES, Answer, most_tokens, prompt_tokens
from tests.live.serving import event

STREAM = b"".join(
    [
        event({"choices": [{"delta": {"role": "assistant"}}]}),
        *[event({"choices": [{"delta": {"content": word}}]}) for word in ("def", " add", "(", "\u00e4\u00f6", ")")],
        event({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        b": a comment\n\n",
        b"data: [DONE]\n\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_tokens_of_a_stream_are_counted_however_it_is_cut(cuts: list[int]):
    answer, places = Answer(True), sorted({0, *cuts, len(STREAM)})
    counted = [answer.feed(STREAM[one:other]) for one, other in itertools.pairwise(places)]
    assert sum(counted) == answer.tokens == answer.total == 5


def test_what_the_server_has_counted_is_what_counts():
    answer = Answer(True)
    answer.feed(STREAM[:-14] + event({"choices": [], "usage": {"completion_tokens": 7}}) + b"data: [DONE]\n\n")
    assert answer.tokens == 5 and answer.total == 7


def test_an_answer_in_one_piece_has_its_first_token_when_it_comes():
    answer, document = Answer(False), json.dumps({"choices": [], "usage": {"completion_tokens": 42}}).encode()
    assert answer.feed(document[:10]) == 1 and answer.feed(document[10:]) == 0
    assert answer.total == 42


def test_other_content_is_passed_over():
    for content in (
        b"\xff\xfe",
        b"data: {broken\n",
        b"data: [1, 2]\n",
        b'data: {"choices": 3.5}\n',
        b'data: {"usage": 1}\n',
    ):
        assert Answer(True).feed(content) == 0
        assert Answer(False).feed(content) == 1
    endless = Answer(True)
    endless.feed(b"x" * (MOST_BYTES + 1))
    assert endless.feed(STREAM) == 0 and endless.total == 1


def test_prompts_are_guessed_and_limits_read():
    assert prompt_tokens({"messages": [{"role": "user", "content": "x" * 396}]}) == 100
    assert prompt_tokens({"messages": [{"role": "", "content": [{"type": "", "text": "x" * 40}]}]}) == 10
    assert prompt_tokens({"prompt": [1, 2, 3]}) == 3 and prompt_tokens({}) == 1
    nested: Any = "x" * 8
    for _ in range(5000):
        nested = [nested]
    assert prompt_tokens({"prompt": nested}) == 2
    assert most_tokens({"max_completion_tokens": 5, "max_tokens": 9}) == 5
    assert most_tokens({"max_tokens": True}) is None and most_tokens({"max_tokens": "9"}) is None
