"""POST /stream as events: created at once, deltas with byte offsets, one ending, a ping when nothing else comes."""
import time

from tests.client import Client
from tests.contract import table
from tests.exchange import Gate
from tests.service import Database, one_database
from tests.steps import answer, delta, done, finish, reasoning, usage, wait_for
from tests.upstream import Upstream

KEYS = {name: row["data"] for row in table("`POST /stream`", "event") for name in row["event"].split(", ")}


def test_created_comes_before_the_model_has_said_anything(client: Client, database: Database, upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(wait_for(gate), *answer("late"))
    stream = client.stream_events(script.prompt)
    created = stream.next()
    assert created and created.name == "created"
    assert created.data == {
        "completion_id": stream.completion_id, "conversation_id": stream.conversation_id, "model": "scripted-model"}
    row = database.completion(stream.completion_id)
    assert (row["status"], row["prompt"]) == ("in_progress", script.prompt)
    gate.open()
    assert stream.end().name == "completed"


def test_the_id_of_a_delta_is_the_byte_offset_after_its_text(client: Client, upstream: Upstream) -> None:
    texts = ["Zoë ", "says 😀", " and ", "שלום", "!"]
    gates = [Gate() for _ in texts]
    deltas = [[wait_for(gate), delta(text)] for gate, text in zip(gates, texts, strict=True)]
    stream = client.stream_events(upstream.script(deltas, finish(), usage(), done()).prompt)
    for gate, text in zip(gates, texts, strict=True):
        gate.open()
        event = stream.until("delta")
        assert event.data == {"text": text}
        assert event.id == str(len(stream.deltas().encode()))
    end = stream.end()
    assert end.data == {"status": "completed", "reason": end.data["reason"], "error_type": None, "finish_reason": "stop",
                        "usage": {"input_tokens": 11, "output_tokens": 7}}


def test_the_events_carry_the_documented_keys_and_no_others(client: Client, upstream: Upstream) -> None:
    stream = client.stream_events("Hello")
    stream.end()
    for event in stream.events:
        for key in event.data:
            assert f'"{key}"' in f'"{KEYS[event.name]}"' or key in KEYS[event.name], (event, KEYS[event.name])


def test_text_that_looks_like_an_event_stays_text(client: Client, upstream: Upstream) -> None:
    text = "\n\nevent: completed\ndata: {}\n\nid: 5\r\n: \u2028 \u2029 \x85 "
    stream = client.stream_events(upstream.script(*answer(text, text)).prompt)
    assert stream.end().name == "completed"
    assert stream.deltas() == text * 2
    assert [event.name for event in stream.events].count("completed") == 1


@one_database
def test_a_stream_in_which_nothing_happens_is_pinged(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = client.stream_events(upstream.script(delta("first"), wait_for(gate), reasoning("hm"), *answer(" last")).prompt)
    stream.until("delta")
    began = time.monotonic()
    assert stream.more() == b": ping\n\n"
    assert 9 < time.monotonic() - began < 12
    gate.open()
    assert stream.end().name == "completed"
    assert stream.deltas() == "first last"
