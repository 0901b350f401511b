"""When the text of one answer came: the figures behind the picture of its stream."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from .models import Completion

PAUSE_MS = 300  # a pause is longer than this and than four of the usual gaps
FEW_GAPS_MS = 1000  # what it is longer than where too few gaps are there to say what is usual
SHORTEST_SLICE_MS = 100


class Pause(NamedTuple):
    """A time without text. `is_last`: nothing came after it until the answer ended."""

    start: int
    ms: int
    is_last: bool


class Slice(NamedTuple):
    """A span of time (in ms since the prompt was accepted), what came in it, and the pauses that began in it."""

    start: float
    end: float
    characters: int
    pauses: list[Pause]

    @property
    def pace(self) -> float:
        """Characters a second."""
        return self.characters * 1000 / (self.end - self.start)


class Timeline:
    """An answer that has ended: `moments` are (characters so far, ms since the prompt was accepted)."""

    def __init__(self, completion: Completion) -> None:
        text = completion.response.encode()
        self.moments: list[tuple[int, int]] = []
        at = characters = 0
        for offset, ms in completion.timeline or []:
            characters += len(text[at:offset].decode(errors="ignore"))
            at = max(at, offset)
            self.moments.append((characters, ms))
        self.first = self.moments[0][1] if self.moments else None
        self.last = self.moments[-1][1] if self.moments else 0
        self.end = max(completion.duration_ms or 0, self.last, 1)
        self.pauses = self._pauses()

    @classmethod
    def of(cls, completion: Completion) -> Timeline | None:
        """None where there is nothing to draw: it is being written, or its times went with the worker that had noted them."""
        known = completion.timeline or (not completion.response and completion.duration_ms is not None)
        return cls(completion) if known and completion.status != "in_progress" else None

    def _pauses(self) -> list[Pause]:
        gaps = [(a[1], b[1] - a[1]) for a, b in pairwise(self.moments)]
        usual = median(ms for _, ms in gaps) if len(gaps) > 2 else FEW_GAPS_MS / 4
        found = [Pause(start, ms, False) for start, ms in gaps if ms > max(PAUSE_MS, 4 * usual)]
        rest = self.end - self.last
        is_long = self.first is not None and rest > max(FEW_GAPS_MS, 4 * usual)
        return [*found, Pause(self.last, rest, True)] if is_long else found

    @property
    def pace(self) -> float | None:
        """Characters a second from the first text to the last; None where all came at once."""
        if self.first is None or self.last == self.first:
            return None
        return (self.moments[-1][0] - self.moments[0][0]) * 1000 / (self.last - self.first)

    def slices(self, most: int) -> list[Slice]:
        """The whole time in `most` equal parts, or fewer if they would be too short to say anything."""
        count = max(1, min(most, self.end // SHORTEST_SLICE_MS))
        width = self.end / count
        slices = [Slice(width * i, width * (i + 1), 0, []) for i in range(count)]
        before = 0
        for characters, ms in self.moments:
            i = min(int(ms / width), count - 1)
            slices[i] = slices[i]._replace(characters=slices[i].characters + characters - before)
            before = characters
        for pause in self.pauses:
            slices[min(int(pause.start / width), count - 1)].pauses.append(pause)
        return slices

    def ticks(self, most: float, count: int) -> list[float]:
        """Round numbers for an axis from 0 to `most`: about `count` of them."""
        power = 10 ** math.floor(math.log10(most / count))
        step = next(times * power for times in (1, 2, 5, 10) if times * power >= most / count)
        return [step * i for i in range(int(most / step) + 1)]
