"""GET /review: what a filter holds and no reviewer has judged, newest first, each for one browser at a time."""
import itertools
import re
import threading
from typing import Any

import pytest

from llmstream.queue import left_in
from tests.client import Client
from tests.contract import is_problem
from tests.exchange import Gate
from tests.service import Database
from tests.steps import held
from tests.upstream import Upstream

_tags = itertools.count(1)


class Reader:
    """A browser at the queue of one filter; a fresh one unless `cookie` says which."""

    def __init__(self, client: Client, tag: str, cookie: str = "") -> None:
        self.client, self.tag, self.cookie = client, tag, cookie
        self.page = ""

    def look(self, query: str = "") -> int | None:
        """The id that the queue shows; None where it shows none."""
        headers = {"Accept": "text/html", "Cookie": self.cookie}
        response = self.client.get(f"/review?tag={self.tag}&{query}", headers=headers)
        assert response.status_code == 200, response.text
        self.cookie = self.cookie or response.headers["Set-Cookie"].partition(";")[0]
        self.page = response.text
        shown = re.search(r'data-part="review" data-completion-id="(\d*)"', self.page)
        assert shown
        return int(shown[1]) if shown[1] else None

    @property
    def left(self) -> str:
        found = re.search(r'data-part="left"><strong>(.*?)</strong>', self.page)
        assert found
        return found[1]

    @property
    def is_told_of_another(self) -> bool:
        return 'data-part="taken">Another reviewer has this answer open' in self.page


@pytest.fixture
def tag() -> str:
    return f"queue-{next(_tags)}"


@pytest.fixture
def ids(client: Client, tag: str) -> list[int]:
    """Four that wait for a reviewer, newest first."""
    streams = [client.stream_text("Judge me") for _ in range(4)]
    for stream in streams:
        stream.text()
        assert client.call("PUT", f"/history/{stream.completion_id}/tags/{tag}").status_code == 201
    return [stream.completion_id for stream in reversed(streams)]


def judge(client: Client, completion_id: int) -> None:
    assert client.call("POST", f"/history/{completion_id}/reviews", json={"rating": "good"}).status_code == 201


def test_the_newest_that_nobody_judged_comes_first_and_the_rest_is_counted(client: Client, tag: str, ids: list[int]) -> None:
    reader = Reader(client, tag)
    assert (reader.look(), reader.left) == (ids[0], "4")
    judge(client, ids[0])
    judge(client, ids[2])
    client.call("POST", f"/history/{ids[1]}/reviews", json={"rating": "bad", "role": "user"})
    assert (reader.look(), reader.left) == (ids[1], "2"), "a thumb is no review"
    assert reader.look("reviewed=yes") == ids[1], "what is judged does not wait, whatever the link says"
    judge(client, ids[1])
    judge(client, ids[3])
    assert (reader.look(), reader.left) == (None, "0")
    assert "Nothing is left to review" in reader.page


def test_what_was_skipped_is_not_offered_again_at_once(client: Client, tag: str, ids: list[int]) -> None:
    reader = Reader(client, tag)
    assert [reader.look(f"before={above}") for above in (ids[0], ids[1], ids[2])] == ids[1:]
    assert reader.look(f"before={ids[3]}") is None
    assert "You have come to the end" in reader.page and reader.left == "4"
    assert f"Back to number {ids[3]}" in reader.page
    assert reader.look(f"after={ids[3]}") == ids[2]
    assert not reader.is_told_of_another
    assert reader.look(f"after={ids[0]}") is None
    assert "This was the newest" in reader.page
    assert reader.look() == ids[0]


def test_two_browsers_never_get_the_same_one(client: Client, tag: str, ids: list[int]) -> None:
    readers = [Reader(client, tag) for _ in range(6)]
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda reader=reader: got.append(reader.look())) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(filter(None, got), reverse=True) == ids, "each of the four once"
    late = next(reader for reader in readers if 'data-completion-id=""' in reader.page)
    assert "Other reviewers have the rest" in late.page


def test_what_one_skipped_is_not_said_to_be_with_others(client: Client, tag: str, ids: list[int]) -> None:
    other, reader = Reader(client, tag), Reader(client, tag)
    assert other.look(f"completion={ids[3]}") == ids[3]
    assert reader.look(f"before={ids[2]}") is None
    assert "Other reviewers have the rest" in reader.page
    assert "4 left: they are open elsewhere, or you skipped them." in reader.page


def test_one_that_is_left_or_whose_time_ran_out_is_free_again(
        client: Client, database: Database, tag: str, ids: list[int]) -> None:
    ana, bob = Reader(client, tag), Reader(client, tag)
    assert (ana.look(), bob.look()) == (ids[0], ids[1])
    assert ana.look(f"before={ids[0]}") == ids[2], "the second is with Bob"
    assert bob.look() == ids[0], "Ana has left it"
    past = "datetime('now', '-1 second')" if database.kind == "sqlite" else "now() - interval '1 second'"
    assert database.execute(f"UPDATE completions SET reviewing_until = {past} WHERE id = :id", id=ids[0])
    assert Reader(client, tag).look() == ids[0]


def test_an_open_page_keeps_its_answer(client: Client, database: Database, tag: str, ids: list[int]) -> None:
    ana, bob = Reader(client, tag), Reader(client, tag)
    assert ana.look() == ids[0]
    until = database.completion(ids[0])["reviewing_until"]
    renewed = client.call("PUT", f"/review/{ids[0]}/lock", headers={"Cookie": ana.cookie})
    assert renewed.status_code == 204
    assert database.completion(ids[0])["reviewing_until"] > until
    bob.look()
    is_problem(client.call("PUT", f"/review/{ids[0]}/lock", headers={"Cookie": bob.cookie}), 409)
    assert bob.look(f"completion={ids[0]}") == ids[0]
    assert bob.is_told_of_another
    judge(client, ids[0])


def test_only_what_has_ended_waits(client: Client, upstream: Upstream, tag: str, ids: list[int]) -> None:
    gate = Gate()
    stream = client.stream_text(upstream.script(*held(gate, "so far", " and on")).prompt)
    stream.read_until("so far")
    page = client.get(f"/review?conversation_id={stream.conversation_id}", headers={"Accept": "text/html"}).text
    assert "Nothing is left to review" in page
    empty = client.get(f"/review?conversation_id={stream.conversation_id}&status=", headers={"Accept": "text/html"}).text
    assert "Nothing is left to review" in empty
    is_problem(client.get("/review?status=in_progress"), 422)
    gate.open()
    stream.text()
    page = client.get(f"/review?conversation_id={stream.conversation_id}&status=completed", headers={"Accept": "text/html"}).text
    assert f'data-completion-id="{stream.completion_id}"' in page


@pytest.mark.parametrize("query", ["before=x", "before=0", "after=" + "9" * 30, "completion=-1", "colour=red"])
def test_a_wrong_place_is_refused(client: Client, query: str) -> None:
    assert query.partition("=")[0] in is_problem(client.get(f"/review?{query}"), 422)["errors"]


def test_what_is_gone_is_not_found(client: Client) -> None:
    is_problem(client.get("/review?completion=999999999"), 404)
    is_problem(client.call("PUT", "/review/999999999/lock"), 404)


def test_the_reasons_used_most_are_suggested_first(client: Client, tag: str, ids: list[int]) -> None:
    def suggested() -> list[str]:
        reader = Reader(client, tag)
        reader.look(f"completion={ids[0]}")
        return re.findall(r'<option value="(.*?)">', reader.page.partition('id="reasons"')[2].partition("</datalist>")[0])
    for number in range(5):
        said: dict[str, Any] = {"reason": "smells of fish", "note": str(number)}
        client.call("POST", f"/history/{ids[0]}/reviews", json=said)
    assert "smells of fish" in suggested()[:2] and "wrong fact" in suggested()


@pytest.mark.alone
@pytest.mark.parametrize(("count", "are_all", "words"), [
    (0, True, "0"), (1234, True, "1,234"), (10_000, True, "10,000"), (10_001, False, "more than 10,000"),
    (812, False, "at least 812"), (0, False, "an unknown number")])
def test_what_is_left_is_counted_exactly_only_where_that_is_quick(count: int, are_all: bool, words: str) -> None:
    class Counted:
        def count_for(self, seconds: float, at_most: int) -> tuple[int, bool]:
            assert seconds < 0.5 and at_most == 10_001
            return count, are_all
    assert left_in(Counted()) == words  # type: ignore[arg-type]
