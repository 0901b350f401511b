"""Which messages a prompt is sent with: the system message, the earlier turns that fit, the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .models import Completion

BYTES_PER_TOKEN = 3  # an estimate on the safe side; where it is wrong, the upstream says so and half the turns go
TOKENS_PER_MESSAGE = 8
ANSWER_TOKENS = 1024  # kept free for the answer, where the request does not say how long it may be


class Context(NamedTuple):
    messages: list[dict[str, str]]
    dropped_turns: int


def context_for(
    prompt: str,
    system: str | None,
    earlier: Sequence[Sequence[Completion]],
    context_tokens: int,
    max_tokens: int | None,
) -> Context:
    """The latest usable answer of each of the `earlier` turns; the newest are kept first."""
    room = context_tokens - min(max_tokens or ANSWER_TOKENS, context_tokens // 2)
    fixed = [message("system", system)] if system else []
    room -= sum(map(tokens, [*fixed, message("user", prompt)]))
    usable = [turn for versions in earlier if (turn := latest_usable(versions))]
    kept: list[dict[str, str]] = []
    count = 0
    for turn in reversed(usable):
        pair = said(turn)
        room -= sum(map(tokens, pair))
        if room < 0:
            break
        kept, count = pair + kept, count + 1
    return Context([*fixed, *kept, message("user", prompt)], len(usable) - count)


def said(turn: Completion) -> list[dict[str, str]]:
    """A turn as a later one is sent with it; where it keeps its own messages, they come along."""
    asked = [one for one in turn.messages or () if one["role"] != "system"] or [message("user", turn.prompt)]
    return [*asked, message("assistant", turn.response)]


def latest_usable(versions: Sequence[Completion]) -> Completion | None:
    return next((version for version in reversed(versions) if version.is_usable), None)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def tokens(one: dict[str, str]) -> int:
    return len(one["content"].encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE
