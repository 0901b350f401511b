"""GET /stream/<id>: the rest of an answer from any byte, live or finished, from the worker that writes it or from another."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client, TextStream
from tests.contract import is_problem
from tests.exchange import Gate
from tests.service import Service
from tests.steps import answer, delta, done, finish, held, role, wait_for
from tests.upstream import Upstream

HALVES = ("naïve 😀 — ", "שלום, e\u0301 𝄞!")
WHOLE = "".join(HALVES).encode()
HALF = len(HALVES[0].encode())
EVENTS = {"Accept": "text/event-stream"}


def is_boundary(offset: int) -> bool:
    return offset in (0, len(WHOLE)) or WHOLE[offset] & 0xC0 != 0x80


@pytest.fixture(scope="module")
def finished(client: Client, upstream: Upstream) -> int:
    stream = client.stream_text(upstream.script(*answer(*HALVES)).prompt)
    stream.text()
    return stream.completion_id


@pytest.mark.parametrize("instance", ["service", "twin"])
def test_a_finished_answer_is_served_as_text_from_every_byte(
        finished: int, instance: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(instance).client
    for offset in range(len(WHOLE) + 1):
        stream = client.reattach_text(finished, offset)
        assert stream.rest() == WHOLE[offset:]
        assert not stream.cut


@pytest.mark.parametrize("instance", ["service", "twin"])
def test_a_finished_answer_is_served_as_events_from_every_character(
        finished: int, instance: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(instance).client
    for offset in range(len(WHOLE) + 1):
        if not is_boundary(offset):
            is_problem(client.reattach(finished, offset, accept="text/event-stream"), 422)
            continue
        stream = client.reattach_events(finished, offset)
        assert stream.end().name == "completed"
        assert stream.deltas().encode() == WHOLE[offset:]
        deltas = [event for event in stream.events if event.name == "delta"]
        assert not deltas or deltas[-1].id == str(len(WHOLE))


@pytest.mark.parametrize("instance", ["service", "twin"])
def test_a_live_answer_is_joined_at_every_byte(
        service: Service, instance: str, upstream: Upstream, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(instance).client
    gate = Gate()
    first = service.client.stream_text(upstream.script(role(), delta(HALVES[0]), wait_for(gate), delta(HALVES[1]),
                                                       finish(), done()).prompt)
    first.read_until(HALVES[0])
    texts: dict[int, TextStream] = {}
    with ThreadPoolExecutor(HALF) as pool:
        joined = {offset: pool.submit(client.reattach_text, first.completion_id, offset) for offset in range(HALF)}
        events = {offset: client.reattach_events(first.completion_id, offset) for offset in range(HALF + 1)
                  if is_boundary(offset)}
        texts = {offset: future.result() for offset, future in joined.items()}
        for offset, stream in texts.items():
            stream.read_until("")
            while len(stream.received) < HALF - offset:
                assert stream.more()
        gate.open()
    assert first.rest() == WHOLE
    for offset, stream in texts.items():
        assert stream.rest() == WHOLE[offset:] and not stream.cut
    for offset, stream in events.items():
        assert stream.end().name == "completed"
        assert stream.deltas().encode() == WHOLE[offset:]


def test_a_join_at_the_very_end_of_a_live_answer_waits_for_more(service: Service, twin: Service, upstream: Upstream) -> None:
    gate = Gate()
    first = service.client.stream_text(upstream.script(*held(gate, "so far", " and on")).prompt)
    first.read_until("so far")
    streams = [instance.client.reattach_events(first.completion_id, 6) for instance in (service, service, service, twin)]
    gate.open()
    for stream in streams:
        assert stream.end().name == "completed"
        assert stream.deltas() == " and on"


def test_text_arrives_live_through_another_instance(service: Service, twin: Service, upstream: Upstream) -> None:
    gates = [Gate() for _ in range(4)]
    deltas = [[wait_for(gate), delta(f"word{i} ")] for i, gate in enumerate(gates)]
    stream = service.client.stream_events(upstream.script(deltas, finish(), done()).prompt)
    elsewhere = twin.client.reattach_events(stream.completion_id)
    for i, gate in enumerate(gates):
        gate.open()
        assert elsewhere.until("delta").data["text"] == f"word{i} "
    assert elsewhere.end().name == "completed"


def test_events_go_on_after_the_last_id_that_was_seen(client: Client, finished: int) -> None:
    stream = client.reattach_events(finished, headers={"Last-Event-ID": str(HALF)})
    stream.end()
    assert stream.deltas() == HALVES[1]


def test_after_beats_the_last_event_id(client: Client, finished: int) -> None:
    stream = client.reattach_events(finished, 0, headers={"Last-Event-ID": str(HALF)})
    stream.end()
    assert stream.deltas().encode() == WHOLE


@pytest.mark.parametrize("after", ["-1", "1.5", "abc", "", "0x1", "1e1", "٣", str(len(WHOLE) + 1), "9" * 40])
@pytest.mark.parametrize("accept", ["text/plain", "text/event-stream"])
def test_a_wrong_after_is_refused(client: Client, finished: int, after: str, accept: str) -> None:
    assert "after" in is_problem(client.reattach(finished, after, accept=accept), 422)["errors"]


@pytest.mark.parametrize("last", ["-1", "abc", str(len(WHOLE) + 1), str(WHOLE.index("😀".encode()) + 1)])
def test_a_wrong_last_event_id_is_refused(client: Client, finished: int, last: str) -> None:
    is_problem(client.reattach(finished, accept="text/event-stream", headers={"Last-Event-ID": last}), 422)


def test_more_than_a_live_answer_has_is_refused(service: Service, twin: Service, upstream: Upstream) -> None:
    gate = Gate()
    stream = service.client.stream_text(upstream.script(delta("so far"), wait_for(gate), finish(), done()).prompt)
    stream.read_until("so far")
    with ThreadPoolExecutor(2) as pool:  # another worker than the one that writes may take 15 s to be sure
        for refused in pool.map(lambda instance: instance.client.reattach(stream.completion_id, 7), (service, twin)):
            is_problem(refused, 422)
    gate.open()
    stream.text()


@pytest.mark.parametrize("completion_id", ["999999999", "9" * 30, "abc", "-1", "1.0"])
def test_what_is_not_there_is_not_found(client: Client, completion_id: str) -> None:
    is_problem(client.get(f"/stream/{completion_id}"), 404)


def test_a_reader_does_not_disturb_the_answer(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(*held(gate, "first ", "last"))
    stream = client.stream_text(script.prompt)
    for _ in range(5):
        other = client.reattach_text(stream.completion_id)
        other.read_until("first ")
        other.leave()
    gate.open()
    assert stream.text() == "first last"
    assert len(script.calls) == 1
