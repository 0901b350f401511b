"""Text as words: the same for the search index, for a query and for the marks in a result, whichever the database.

A word is a run of letters and digits, without regard to case and accents. Scripts that write no spaces (Chinese, Japanese, Thai,
Khmer, Burmese, Lao) count each character as a word, and so does an emoji. Everything else only separates words. Databases get
words that are ready: what they make of letters depends on their version and locale.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup, escape

LONGEST = 64  # characters of a word that count
SLICE = 10_000  # characters that are looked at in one go
MARKED = 50_000  # characters of a text in which a match is looked for to show it
_alone = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_emoji = "\u2600-\u27bf\U0001f000-\U0001faff"
WORD = re.compile(f"[{_alone}]|[{_emoji}]|[^\\W_{_alone}{_emoji}]+")
ALONE = re.compile(f"[{_alone}{_emoji}]")
GAP = re.compile(r"\s")
ACCENTS = re.compile("[\u0300-\u036f]+")
MANY_MARKS = re.compile(r"(?:(?![\0-\u02ff])\W){32,}")
TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


class Term(NamedTuple):
    """Words that stand one after another; with `prefix` the last one is only the beginning of a word."""

    words: tuple[str, ...]
    prefix: bool


def fold(text: str) -> str:
    """Without case, accents and forms of the same letter: `Straße` and `STRASSE` are one."""
    if text.isascii():
        return text.lower()
    text = MANY_MARKS.sub(unmarked, text)  # normalize() takes the square of the time for a run of marks
    return unicodedata.normalize("NFC", ACCENTS.sub("", unicodedata.normalize("NFKD", text))).casefold()


def unmarked(run: re.Match[str]) -> str:
    return "".join(character for character in run[0] if not unicodedata.combining(character))


def words(text: str) -> list[str]:
    return [word[:LONGEST] for word in WORD.findall(fold(text))]


def slices(text: str) -> Iterator[str]:
    """The text in pieces of which none takes long, with no word cut but one that is absurdly long."""
    at = 0
    while at < len(text):
        gap = GAP.search(text, at + SLICE, at + SLICE + 1000)
        end = gap.start() if gap else at + SLICE
        yield text[at:end]
        at = end


def parse(query: str) -> list[Term]:
    """What a person typed: "quotes" hold words together, a trailing * leaves the end open, everything else is words."""
    terms = []
    for quoted, star, bare in TERM.findall(query):
        if found := words(quoted or bare):
            is_open = bool(star) or bare.endswith("*")
            terms.append(Term(tuple(found), is_open and len(found[-1]) > 1))  # one letter begins too many words
    return list(dict.fromkeys(terms))


def mark(text: str, query: str, length: int = 400) -> Markup:
    """About `length` characters of `text` around the first match, escaped, with what matched in <mark>."""
    terms = parse(query)
    start = max(0, _first(text, terms) - length // 4)
    part = text[start : start + length]
    if start:  # begin with a whole word
        part = part[part.find(" ", 0, length // 8) + 1 :]
    pieces, at = ["…" if start else ""], 0
    for first, last in sorted(_spans(part, terms)):
        if last > at:
            pieces += [escape(part[at : max(at, first)]), MARK, escape(part[max(at, first) : last]), END]
            at = last
    return Markup("").join([*pieces, escape(part[at:]), "…" if start + length < len(text) else ""])


MARK, END = Markup("<mark>"), Markup("</mark>")


def _first(text: str, terms: list[Term]) -> int:
    """Near which character the first match is: exact where folding keeps the length. In time that grows with the text only."""
    folded = fold(text[:MARKED])
    found = (re.search(_pattern(term), folded) for term in terms)
    return min((match.start() for match in found if match), default=0)


def _pattern(term: Term) -> str:
    """A term as it stands in folded text. A word is compared first, what precedes it after: that is how a search is fast."""
    inner = f"[^\\W_{_alone}{_emoji}]"
    parts = [word if ALONE.match(word) else f"{word}(?<!{inner}{word})(?!{inner})" for word in term.words]
    if term.prefix:
        parts[-1] = parts[-1].removesuffix(f"(?!{inner})")
    return f"(?:[^\\w{_alone}{_emoji}]|_)*".join(parts)  # no word is a gap: it would be tried as both, again and again


def _spans(text: str, terms: list[Term]) -> Iterator[tuple[int, int]]:
    """Where the terms stand in a short text."""
    places = [(match.start(), match.end(), fold(match[0])[:LONGEST]) for match in WORD.finditer(text)]
    for term in terms:
        *firsts, last = term.words
        for i in range(len(places) - len(firsts)):
            here = places[i : i + len(term.words)]
            *before, word = (word for _, _, word in here)
            if before == firsts and (word.startswith(last) if term.prefix else word == last):
                yield here[0][0], here[-1][1]
