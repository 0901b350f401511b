"""Which words two texts have in common: quick whatever they are, since it looks for anchors and not for the fewest changes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from .breath import Breath, breathing

MOST_BY_WORD = 40_000  # characters of both texts together
MOST_BY_LINE = 2_000_000
MOST_LINES = 20_000
SMALL = 1000  # two pieces so short (the product of their lengths) are left to difflib
MOST_WORK = 20  # times the length: then what is left counts as different
# Words, and what is between them. Scripts that put no space between words are compared letter by letter.
WORD = re.compile(r"[^\W\u0e00-\u0eff\u3040-\u9fff\uac00-\ud7af]+|\S|\s+")
LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Differences(NamedTuple):
    """Both texts in pieces (text, is it in both?), and by what they were compared: "word", "line" or None (too long)."""

    sides: list[list[tuple[str, bool]]]
    unit: str | None


def differences(a: str, b: str) -> Differences:
    if len(a) + len(b) <= MOST_BY_WORD:
        unit, split = "word", WORD.findall
    elif len(a) + len(b) <= MOST_BY_LINE and a.count("\n") + b.count("\n") <= MOST_LINES:
        unit, split = "line", LINE.findall
    else:
        return Differences([[(a, True)], [(b, True)]], None)
    left, right = split(a), split(b)
    pairs = list(common(left, right))
    here, there = {i for i, _ in pairs}, {j for _, j in pairs}
    for i, j in pairs:  # a space between words that are not shared goes with them
        if left[i].isspace() and not ({i - 1, i + 1} & here and {j - 1, j + 1} & there):
            here.remove(i)
            there.remove(j)
    return Differences([pieces(left, here), pieces(right, there)], unit)


def common(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of places with the same unit, in order on both sides: what the ends share, what occurs once on both sides
    (a patience diff), and so on between these."""
    work = MOST_WORK * (len(a) + len(b) + 1)
    todo = [(0, len(a), 0, len(b))]
    breath = Breath()
    while todo and work > 0:
        breath()
        i, i_end, j, j_end = todo.pop()
        work -= i_end - i + j_end - j
        while i < i_end and j < j_end and a[i] == b[j]:
            yield i, j
            i, j = i + 1, j + 1
        while i < i_end and j < j_end and a[i_end - 1] == b[j_end - 1]:
            i_end, j_end = i_end - 1, j_end - 1
            yield i_end, j_end
        if (i_end - i) * (j_end - j) <= SMALL:
            matcher = SequenceMatcher(None, a[i:i_end], b[j:j_end], autojunk=False)
            yield from ((i + m.a + k, j + m.b + k) for m in matcher.get_matching_blocks() for k in range(m.size))
            continue
        breath()
        if anchors := unique(a[i:i_end], b[j:j_end]):
            places = [(i - 1, j - 1), *((i + x, j + y) for x, y in anchors), (i_end, j_end)]
            yield from places[1:-1]
            todo += [(x + 1, x_end, y + 1, y_end) for (x, y), (x_end, y_end) in pairwise(places)]


def unique(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Places of what occurs once in both: the longest row of pairs that are in order on both sides."""
    once = {unit for unit, count in Counter(a).items() if count == 1} & {unit for unit, count in Counter(b).items() if count == 1}
    place = {unit: j for j, unit in enumerate(b) if unit in once}
    lowest: list[int] = []  # the least place in b where a row of this length ends
    ends: list[Any] = []  # that row's last pair: (place in a, place in b, the pair before it in its row)
    for i, unit in enumerate(breathing(a)):
        if unit in once:
            length = bisect_left(lowest, place[unit])
            lowest[length : length + 1] = [place[unit]]
            ends[length : length + 1] = [(i, place[unit], ends[length - 1] if length else None)]
    found: list[tuple[int, int]] = []
    pair = ends[-1] if ends else None
    while pair:
        i, j, pair = pair
        found.append((i, j))
    return found[::-1]


def pieces(units: Sequence[str], shared: set[int]) -> list[tuple[str, bool]]:
    """Neighbours of the same kind together."""
    grouped = groupby(range(len(units)), shared.__contains__)
    return [("".join(units[i] for i in group), is_shared) for is_shared, group in grouped]
