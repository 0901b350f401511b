"""Odd strings through every field on both databases: some of each; `make security` sends all of them through all."""

from tests.people import Team
from tests.security.naughty import CASES, EVERYTHING, OURS, STRINGS, send


def test_no_string_in_any_field_is_a_fault_or_comes_back_changed(team: Team) -> None:
    names = list(CASES)
    cases = [(names[number % len(names)], text) for number, text in enumerate(STRINGS[::4])]
    cases += [(name, text) for name in names if name != "login" for text in OURS[::4]]
    assert len({name for name, _ in cases}) == len(CASES) and len(EVERYTHING) > 400
    counts, wrong = send(team, cases)
    assert not wrong, "\n".join(wrong[:20])
    assert counts["taken"] > 50 and counts["refused"] > 50, counts
    assert "Traceback" not in team.service.log()
