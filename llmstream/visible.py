"""Hidden characters made visible: what changes or carries a text without being seen becomes a small labelled mark."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from markupsafe import Markup, escape

from .breath import breathing

MOST_MARKS = 1000  # in one text: a page stays a page, however many there are
MARK = Markup('<bdi class="hidden-character" role="img" data-code="{}" title="{}" aria-label="[{}]">{}</bdi>')
MORE = MARK.format("…", name := f"{MOST_MARKS} hidden characters so far; those that follow have no mark", name, "")
CR = Markup("&#13;")  # a parser of HTML would make it a line end
SLICE = 32_768  # characters looked at before others have their turn
# Joiners belong to the letters of some scripts and to emoji; elsewhere they are as hidden as the rest. A flag's own tags are left
# alone. Runs of variation selectors, of tags and of any one character share a mark. static/js/visible.js has the same pattern.
JOINABLE = "\u0590-\u1fff\u2190-\u2bff\ua800-\uabff\ufb1d-\ufdff\ufe0f\ufe70-\ufefe\U00010800-\U00011fff\U0001f000-\U0001faff"
ALWAYS = (
    "\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e00ff"
    "\U000e01f0-\U000e0fff"
)
SUSPECT = re.compile(f"[\\r{ALWAYS}\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e01ef]")  # one look that is quick
HIDDEN = re.compile(
    "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
    "|(?P<marked>[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|[\U000e0000-\U000e007f]+"
    f"|(?P<one>[{ALWAYS}]|\r(?!\n)|(?<![{JOINABLE}])[\u200c\u200d])(?P=one)*)"
)


def visible(text: str) -> Markup:
    """`text` (or Markup, as it is) as HTML in which each hidden character has a mark that names it. The text content stays."""
    return Markup("").join(breathing(_pieces(text)))


def _pieces(text: str) -> Iterator[Markup]:
    at = marks = 0
    for end in range(SLICE, len(text) + SLICE, SLICE):
        end += text[end - 1 : end + 1] == "\r\n"
        suspect = SUSPECT.search(text, at, end) if marks < MOST_MARKS else None
        for found in HIDDEN.finditer(text, max(at, suspect.start() - 1), end) if suspect else ():
            if not found["marked"]:
                continue
            yield _escaped(text[at : found.start()])
            yield _mark(found["marked"])
            at = found.end()
            marks += 1
            if marks == MOST_MARKS:
                yield MORE
                break
        yield _escaped(text[at:end])
        at = max(at, end)


def _escaped(text: str) -> Markup:
    return escape(text).replace("\r", CR)


def _mark(run: str) -> Markup:
    """The characters themselves stay inside, where nothing around them can be turned by them."""
    code = f"U+{ord(run[0]):04X}" + (f" x{len(run)}" if len(run) > 1 else "")
    return MARK.format(code, name := name_of(run), name, _escaped(run))


def name_of(run: str) -> str:
    """What a run of hidden characters is, in words; tags are read out, for they can carry a whole message."""
    if "\U000e0020" <= run[-1] <= "\U000e007e":
        return f"hidden text in tag characters: {''.join(chr(ord(tag) - 0xE0000) for tag in run if ord(tag) >= 0xE0020)[:200]}"
    known = unicodedata.name(run[0], "").lower() or ("control character" if ord(run[0]) < 0xA0 else "hidden character")
    return f"{known}, {len(run)} in a row" if len(run) > 1 else known
