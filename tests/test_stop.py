"""DELETE /stream/<id>: the answer stops, the model's server is hung up on, the text so far is kept."""
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client
from tests.contract import assert_ends, delivery_of, endings, is_problem, row_is
from tests.exchange import Gate
from tests.service import Service
from tests.steps import answer, delta, endless_answer, tell, wait_for
from tests.upstream import Upstream

CANCELLED = endings()["cancelled"]


@pytest.mark.parametrize("instance", ["service", "twin"])
def test_it_stops_wherever_it_is_written_and_keeps_the_text(
        service: Service, instance: str, upstream: Upstream, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(instance).client
    script = upstream.script(delta("as far "), delta("as this"), wait_for(Gate()))
    stream = service.client.stream_text(script.prompt)
    events = service.client.reattach_events(stream.completion_id)
    stream.read_until("as this")
    asked = time.monotonic()
    stopped = client.stop(stream.completion_id)
    assert script.call().wait_closed(1.5) - asked < 1.0, "the model's server is hung up on within a second"
    assert stopped.status_code in (200, 202)
    assert stream.rest() == b"as far as this"
    assert stream.cut
    assert events.end().name == "cancelled"
    assert events.events[-1].data["error_type"] == "cancelled"
    row = row_is(client, stream.completion_id, CANCELLED, "as far as this")
    assert stopped.status_code == 202 or stopped.json()["status"] == "cancelled"
    again = client.stop(stream.completion_id)
    assert again.status_code == 200
    assert (again.json()["status"], again.json()["response"]) == ("cancelled", "as far as this")
    assert row["finish_reason"] is None


def test_before_the_first_text_who_asked_is_told(client: Client, upstream: Upstream) -> None:
    script = upstream.script(wait_for(Gate()))
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(client.ask, script.prompt)
        script.call()
        completion_id = client.history(limit=1)["data"][0]["id"]
        stopped = client.stop(completion_id)
        assert (stopped.status_code, stopped.json()["status"]) == (200, "cancelled")
        problem = is_problem(asking.result(), CANCELLED.before)
    assert problem["error_type"] == "cancelled"
    assert problem["completion_id"] == completion_id
    row_is(client, completion_id, CANCELLED, "")
    script.call().wait_closed()


def test_stopping_what_has_ended_changes_nothing(client: Client, upstream: Upstream) -> None:
    completed = client.stream_text(upstream.script(*answer("done")).prompt)
    completed.text()
    delivery_of(client, completed.completion_id)
    before = client.history(completed.completion_id)
    response = client.stop(completed.completion_id)
    assert response.status_code == 200
    assert client.history(completed.completion_id) == before == response.json() | {"conversation": before["conversation"]}
    failed = assert_ends(client, upstream.script(delta("half")), "upstream_cut", "half")
    assert client.stop(failed["id"]).json()["status"] == "failed"


def test_ten_stops_at_once_are_one(client: Client, upstream: Upstream) -> None:
    stream = client.stream_events(upstream.script(delta("text"), wait_for(Gate())).prompt)
    stream.until("delta")
    with ThreadPoolExecutor(10) as pool:
        stopped = list(pool.map(client.stop, [stream.completion_id] * 10))
    assert {response.status_code for response in stopped} <= {200, 202}
    assert stream.end().name == "cancelled"
    row_is(client, stream.completion_id, CANCELLED, "text")


def test_a_model_that_writes_without_a_pause_is_stopped_too(client: Client, upstream: Upstream) -> None:
    started = threading.Event()
    script = upstream.script(tell(started), endless_answer("x" * 100))
    stream = client.stream_text(script.prompt)
    assert started.wait(5)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.rest)
        client.stop(stream.completion_id)
        script.call().wait_closed()
        seen = reading.result().decode()
    assert stream.cut
    assert client.finished(stream.completion_id)["response"] == seen


@pytest.mark.parametrize("completion_id", ["999999999", "9" * 30, "abc"])
def test_what_is_not_there_cannot_be_stopped(client: Client, completion_id: str) -> None:
    is_problem(client.call("DELETE", f"/stream/{completion_id}"), 404)
