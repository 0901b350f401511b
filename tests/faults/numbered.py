"""Answers whose every word says which it must be, so that a hole, a duplicate, a swap or a stranger's text shows.

The prompt asks for one: `Count. {{k3-17:40:25}}` is answered by the 40 tokens `k3-17·0 ` to `k3-17·39 `, one in 25 ms.
"""
import re
from itertools import count
from typing import Any

from tests.exchange import Call
from tests.steps import Step, flat, typing
from tests.upstream import Upstream

ASKED = re.compile(r"\{\{([\w-]+):(\d+):(\d+)\}\}")
_tags = count(1)


def prompt(tokens: int = 40, every_ms: int = 25, tag: str | None = None) -> str:
    """A prompt that nobody else has sent."""
    return f"Count. {{{{{tag or f't{next(_tags)}'}:{tokens}:{every_ms}}}}}"


def tag_of(prompt: str) -> str | None:
    found = ASKED.search(prompt)
    return found[1] if found else None


def words(prompt: str) -> list[str]:
    tag, tokens, _ = ASKED.search(prompt).groups()  # type: ignore[union-attr]
    return [f"{tag}·{i} " for i in range(int(tokens))]


def whole(prompt: str) -> str:
    """The answer to this prompt, all of it."""
    return "".join(words(prompt))


class Numbered(Upstream):
    """The scripted upstream, which counts besides where a prompt asks for it. `asked`: how often each tag was."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.asked: dict[str, int] = {}

    def _steps(self, call: Call) -> list[Step]:
        asked = [m.get("content") for m in call.messages if m.get("role") == "user"] if call.method == "POST" else []
        found = ASKED.search(str(asked[-1])) if asked else None
        if not found:
            return super()._steps(call)
        tag, _, every_ms = found.groups()
        self.asked[tag] = self.asked.get(tag, 0) + 1
        answer: list[Any] = typing(*words(found[0]), every=int(every_ms) / 1000)
        return list(flat(answer))
