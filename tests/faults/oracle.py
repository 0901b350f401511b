"""The judge: what each client was told and saw, against what history says afterwards. Its law is docs/api.md."""
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.contract import endings
from tests.faults.numbered import tag_of, whole
from tests.faults.observer import ENDS, Seen
from tests.service import Service

AHEAD_MS = 50.0  # docs/api.md, "A bounded loss": 50 ms, and one commit
COMMIT_MS = 50.0  # the least that we take one commit for, on two cores that the clients and the model's server share
BEFORE_S = 2.0


@dataclass
class Verdict:
    """The counts of a check. `breaches` is empty where everything held."""

    clean: int = 0
    cut: int = 0
    wrong: int = 0
    missing: int = 0
    worst_loss_ms: float | None = None
    worst_excess_ms: float = 0.0  # beyond 50 ms and the slowest commit of those seconds
    breaches: list[str] = field(default_factory=list)

    def wrongly(self, what: str) -> None:
        self.wrong += 1
        self.breaches.append(what)


def history(service: Service) -> dict[int, dict[str, Any]]:
    """All of history as the API shows it, page by page."""
    rows: dict[int, dict[str, Any]] = {}
    before: int | None = None
    while True:
        page = service.client.history(limit=100, **({"before": before} if before else {}))
        rows |= {row["id"]: row for row in page["data"]}
        if (before := page["next_before"]) is None:
            return rows


def check(service: Service, seens: Iterable[Seen], *, killed: dict[str, float] | None = None,
          calls: dict[str, int] | None = None) -> Verdict:
    """Compare every client's log with history, once nothing of the faults is going on any more.

    :param killed: worker id (`host:pid`, as in the column) to the moment of its SIGKILL, for the loss
    :param calls: how often the upstream was asked for each tag
    """
    verdict, rows = Verdict(), history(service)
    owners = {row["id"]: row for row in service.database.rows(  # type: ignore[union-attr]
        "SELECT id, worker_id, error_type FROM completions")}
    losses: list[tuple[float, float, Seen]] = []  # the moment of the kill, ms of text that was seen and not stored
    begins: list[tuple[float, float]] = []  # when a begin was over, ms that it took: a commit as it looks from outside
    for seen in seens:
        begins.append((seen.opened_at or seen.ended_at, ((seen.opened_at or seen.ended_at) - seen.asked_at) * 1000))
        row = rows.get(seen.completion_id or 0)
        if seen.accepted and row is None:
            verdict.missing += 1
            verdict.breaches.append(f"{_name(seen)}: it was accepted and has no row")
            continue
        if seen.succeeded:
            verdict.clean += 1
            _check_success(verdict, seen, row)
        elif seen.accepted:
            verdict.cut += 1
            _check_cut(verdict, seen, row or {})
            lost_at = (killed or {}).get(owners[seen.completion_id or 0]["worker_id"])
            if lost_at and (row or {})["error_type"] == "worker_lost":
                losses.append((lost_at, _loss_ms(seen, row or {}, lost_at), seen))
        elif seen.status is not None:
            _check_refusal(verdict, seen, row)
    _check_losses(verdict, losses, begins)
    _check_rows(verdict, rows, calls or {})
    for left in service.database.rows(  # type: ignore[union-attr]
            "SELECT DISTINCT completion_id AS id FROM chunks c JOIN completions ON completions.id = c.completion_id "
            "WHERE status <> 'in_progress'"):
        verdict.wrongly(f"completion {left['id']} is finished and still has chunks")
    return verdict


def _name(seen: Seen) -> str:
    return f"completion {seen.completion_id} ({tag_of(seen.prompt) or seen.prompt!r}, {'events' if seen.events else 'text'})"


def _check_success(verdict: Verdict, seen: Seen, row: dict[str, Any] | None) -> None:
    expected = whole(seen.prompt) if tag_of(seen.prompt) else seen.text
    if row is None or row["status"] != "completed":
        verdict.wrongly(f"{_name(seen)}: ended cleanly, and history says {row and row['status']}")
    elif not row["response"] == seen.text == expected:
        verdict.wrongly(f"{_name(seen)}: ended cleanly; seen {_differs(seen.text, expected)}; "
                        f"stored {_differs(row['response'], expected)}")


def _check_cut(verdict: Verdict, seen: Seen, row: dict[str, Any]) -> None:
    if tag_of(seen.prompt) and not whole(seen.prompt).startswith(seen.text):
        verdict.wrongly(f"{_name(seen)}: saw {_differs(seen.text, whole(seen.prompt))}")
    if not (seen.text.startswith(row["response"] or "") or (row["response"] or "").startswith(seen.text)):
        verdict.wrongly(f"{_name(seen)}: seen and stored text differ: {_differs(row['response'], seen.text)}")
    told = (seen.end or {}).get("event")
    if told in ENDS and (told, (seen.end or {})["error_type"]) != (row["status"], row["error_type"]):
        verdict.wrongly(f"{_name(seen)}: was told {told}/{(seen.end or {})['error_type']}, "
                        f"history says {row['status']}/{row['error_type']}")
    if seen.ended == "clean" and told not in ENDS:
        verdict.wrongly(f"{_name(seen)}: ended cleanly without an event that says how")


def _loss_ms(seen: Seen, row: dict[str, Any], killed_at: float) -> float:
    """How old the oldest text was, at the kill, that the client had seen and that is not stored."""
    stored = len((row["response"] or "").encode())
    lost = next((at for at, size in seen.arrivals if size > stored), None)
    return max(0.0, (killed_at - lost) * 1000) if lost else 0.0


def _check_losses(verdict: Verdict, losses: list[tuple[float, float, Seen]], begins: list[tuple[float, float]]) -> None:
    """No loss is greater than 50 ms and one commit, as long as the slowest begin of the two seconds before the kill."""
    slowest = {killed_at: max((ms for at, ms in begins if killed_at - BEFORE_S < at < killed_at + 0.5), default=0.0)
               for killed_at in {killed_at for killed_at, *_ in losses}}
    for killed_at, loss_ms, seen in losses:
        verdict.worst_loss_ms = max(verdict.worst_loss_ms or 0.0, loss_ms)
        if loss_ms <= AHEAD_MS + COMMIT_MS:
            continue
        commit_ms = slowest[killed_at]
        verdict.worst_excess_ms = max(verdict.worst_excess_ms, loss_ms - AHEAD_MS - commit_ms)
        if loss_ms > AHEAD_MS + commit_ms:
            verdict.wrongly(f"{_name(seen)}: text seen {loss_ms:.0f} ms before the kill is not stored; a begin took at most "
                            f"{commit_ms:.0f} ms then")


def _check_refusal(verdict: Verdict, seen: Seen, row: dict[str, Any] | None) -> None:
    """An HTTP error is what the table says for the row, or 503 for a prompt that could not be stored."""
    problem = seen.end or {}
    if seen.completion_id is None:
        if seen.status != 503:
            verdict.wrongly(f"{_name(seen)}: refused with {seen.status}: {problem.get('detail')}")
        return
    if row is None:
        verdict.missing += 1
        verdict.breaches.append(f"{_name(seen)}: refused with a Completion-Id that has no row")
        return
    if row["status"] == "completed" or endings()[row["error_type"]].before != seen.status:
        verdict.wrongly(f"{_name(seen)}: refused with {seen.status}, history says {row['status']}/{row['error_type']}")


def _check_rows(verdict: Verdict, rows: dict[int, dict[str, Any]], calls: dict[str, int]) -> None:
    """What holds for every row, whoever asked for it."""
    tags: set[str] = set()
    for row in rows.values():
        name = f"completion {row['id']}"
        tag = tag_of(row["prompt"])
        if row["status"] == "in_progress":
            verdict.wrongly(f"{name} is still in_progress")
        if tag is None:
            continue
        if tag in tags:
            verdict.wrongly(f"{name}: the prompt {tag} is stored twice")
        tags.add(tag)
        text, expected = row["response"] or "", whole(row["prompt"])
        if not expected.startswith(text):
            verdict.wrongly(f"{name} ({tag}, {row['status']}): stored {_differs(text, expected)}")
        elif row["status"] == "completed" and text != expected:
            verdict.wrongly(f"{name} ({tag}): completed with {len(text)} of {len(expected)} characters")
        if row["error_type"] == "not_started" and (text or calls.get(tag)):
            verdict.wrongly(f"{name} ({tag}): not_started, and the model was asked")
    for tag, times in calls.items():
        if times > 1:
            verdict.wrongly(f"the model was asked {times} times for {tag}")


def _differs(text: str, expected: str) -> str:
    if text == expected:
        return "whole"
    at = next((i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected)))
    return f"{len(text)} of {len(expected)} characters, other from {at} on: {text[at:at + 30]!r} for {expected[at:at + 30]!r}"
