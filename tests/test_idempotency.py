"""Idempotency-Key: a retry gets the same answer, and the model is asked once."""
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client, TextStream
from tests.contract import is_problem, refusal
from tests.exchange import Gate
from tests.service import Database, Service
from tests.steps import answer, close, delta, held, status, wait_for
from tests.upstream import Upstream


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def test_the_same_body_gets_the_same_answer_without_a_second_call(
        service: Service, twin: Service, database: Database, upstream: Upstream, key: dict[str, str]) -> None:
    script = upstream.script(*answer("only ", "once"))
    first = service.client.stream_text(script.prompt, headers=key)
    assert first.text() == "only once"
    before = database.count()
    for client in (service.client, service.client, twin.client):
        again = client.stream_text(script.prompt, headers=key)
        assert again.text() == "only once"
        assert (again.completion_id, again.conversation_id) == (first.completion_id, first.conversation_id)
        events = client.stream_events(script.prompt, headers=key)
        assert events.end().name == "completed"
        assert events.deltas() == "only once"
    assert len(script.calls) == 1
    assert database.count() == before


def test_a_retry_while_it_runs_joins_it_from_the_first_byte(
        service: Service, twin: Service, upstream: Upstream, key: dict[str, str]) -> None:
    gate = Gate()
    script = upstream.script(*held(gate, "first, ", "last"))
    streams = [service.client.stream_text(script.prompt, headers=key)]
    streams[0].read_until("first, ")
    streams += [client.stream_text(script.prompt, headers=key) for client in (service.client, service.client, twin.client)]
    for stream in streams:
        stream.read_until("first, ")
    gate.open()
    assert [stream.text() for stream in streams] == ["first, last"] * 4
    assert len(script.calls) == 1


def test_two_at_once_in_a_conversation_are_one(client: Client, upstream: Upstream, key: dict[str, str]) -> None:
    talk = client.stream_text(upstream.script(*answer("first")).prompt)
    talk.text()
    script = upstream.script(*answer("only ", "once"))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.ask, script.prompt, headers=key, conversation_id=talk.conversation_id) for _ in range(8)]
        assert [(one.result().status_code, one.result().text) for one in asked] == [(200, "only once")] * 8
    assert len(script.calls) == 1


def test_another_body_is_refused(client: Client, database: Database, upstream: Upstream, key: dict[str, str]) -> None:
    script, other = upstream.script(*answer("one")), upstream.script(*answer("other"))
    client.stream_text(script.prompt, headers=key).text()
    before = database.count()
    is_problem(client.ask(other.prompt, headers=key), refusal("Idempotency-Key was"))
    is_problem(client.ask(script.prompt, headers=key, temperature=1), 422)
    assert database.count() == before and not other.calls


def test_the_order_of_the_fields_does_not_make_another_body(client: Client, upstream: Upstream, key: dict[str, str]) -> None:
    script = upstream.script(*answer("one"))
    bodies = [{"prompt": script.prompt, "temperature": 1}, {"temperature": 1, "prompt": script.prompt}]
    answers = [TextStream(client.call("POST", "/stream", json=body, headers=key, stream=True)).text() for body in bodies]
    assert answers == ["one", "one"]
    assert len(script.calls) == 1


def test_what_failed_before_its_first_text_fails_again_in_the_same_way(
        client: Client, upstream: Upstream, key: dict[str, str]) -> None:
    script = upstream.script(status(401)).then(*answer("never"))
    first, again = (is_problem(client.ask(script.prompt, headers=key), 502) for _ in range(2))
    assert first == again
    events = client.stream_events(script.prompt, headers=key)
    assert events.end().data["error_type"] == "upstream_auth"
    assert len(script.calls) == 1


def test_a_prompt_that_was_stored_too_late_to_be_asked_is_asked_by_a_retry(
        client: Client, database: Database, upstream: Upstream, key: dict[str, str]) -> None:
    script = upstream.script(*answer("now"))
    late = client.stream_text(script.prompt, headers=key)
    late.text()
    database.execute("UPDATE completions SET status = 'failed', error_type = 'not_started', response = '' WHERE id = :id",
                     id=late.completion_id)
    again = client.stream_text(script.prompt, headers=key)
    assert again.text() == "now" and again.completion_id != late.completion_id
    assert client.stream_text(script.prompt, headers=key).completion_id == again.completion_id
    assert len(script.calls) == 2


def test_what_failed_midway_is_cut_at_the_same_byte(client: Client, upstream: Upstream, key: dict[str, str]) -> None:
    script = upstream.script(delta("this far"), close()).then(*answer("never"))
    for _ in range(2):
        stream = client.stream_text(script.prompt, headers=key)
        assert stream.rest() == b"this far"
        assert stream.cut
    assert len(script.calls) == 1


@pytest.mark.parametrize("running", [True, False], ids=["slow model", "quick model"])
def test_twenty_at_once_with_one_key_make_one_row_and_one_call(
        service: Service, twin: Service, database: Database, upstream: Upstream, key: dict[str, str], running: bool) -> None:
    gate = Gate()
    gate.is_open = not running
    script = upstream.script(wait_for(gate), *answer("the ", "same ", "for ", "all"))

    def ask(number: int) -> tuple[int, str]:
        client = (twin if number % 4 == 0 else service).client
        if number % 2:
            events = client.stream_events(script.prompt, headers=key)
            assert events.end().name == "completed"
            return events.completion_id, events.deltas()
        stream = client.stream_text(script.prompt, headers=key)
        return stream.completion_id, stream.text()

    before = database.count()
    with ThreadPoolExecutor(20) as pool:
        asking = [pool.submit(ask, number) for number in range(20)]
        script.call()
        gate.open()
        answers = {future.result() for future in asking}
    assert len(script.calls) == 1
    assert database.count() == before + 1
    assert {text for _, text in answers} == {"the same for all"}
    assert len(answers) == 1


@pytest.mark.parametrize("bad", ["", "x" * 256, "with\ttab", "caf\xe9"])
def test_a_key_that_is_no_key_is_refused(client: Client, database: Database, upstream: Upstream, bad: str) -> None:
    script = upstream.script(*answer("never"))
    before = database.count()
    is_problem(client.ask(script.prompt, headers={"Idempotency-Key": bad.encode("latin-1")}), 422)
    assert database.count() == before and not script.calls


def test_the_longest_key_is_taken(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("yes"))
    key = uuid.uuid4().hex.ljust(255, "~")
    assert client.stream_text(script.prompt, headers={"Idempotency-Key": key}).text() == "yes"
