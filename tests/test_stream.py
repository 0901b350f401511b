"""POST /stream as text: the answer arrives delta by delta, with the documented headers, and is in the history afterwards."""
import re
import time
from pathlib import Path

import pytest

from tests.client import Client, TextStream
from tests.contract import delivery_of, is_problem, refusal, table
from tests.exchange import Gate
from tests.service import Database, Service
from tests.steps import answer, delta, done, finish, held, role, usage, wait_for
from tests.upstream import Upstream


@pytest.mark.alone
def test_each_delta_is_read_before_the_model_writes_the_next(client: Client, upstream: Upstream) -> None:
    gates = [Gate() for _ in range(12)]
    deltas = [[wait_for(gate), delta(f"word{i} ")] for i, gate in enumerate(gates)]
    script = upstream.script(role(), deltas, finish(), usage(), done())
    gates[0].open()
    stream = client.stream_text(script.prompt)
    waits = []
    for i, gate in enumerate(gates):
        opened = time.monotonic()
        gate.open()
        stream.read_until(f"word{i} ")
        waits.append(time.monotonic() - opened)
    assert stream.text() == "".join(f"word{i} " for i in range(12))
    assert len(stream.pieces) >= 12
    assert max(waits) < 0.5, f"a piece took {max(waits):.3f} s"
    assert sorted(waits)[6] < 0.1, f"half of the pieces took more than {sorted(waits)[6]:.3f} s"


def test_the_answer_carries_the_documented_headers(client: Client, upstream: Upstream) -> None:
    for accept in ("text/plain", "text/event-stream"):
        stream = TextStream(client.ask("Hello", accept=accept))
        stream.text()
        expected = {
            "the id of this prompt and its answer": str(stream.completion_id),
            "the conversation that it belongs to": str(stream.conversation_id),
            "/history/<completion id>": f"/history/{stream.completion_id}",
        }
        headers = stream.response.headers
        for row in table("`POST /stream`", "header"):
            assert headers[row["header"]] == expected.get(row["value"], row["value"]), row
        assert headers["Content-Type"] == f"{accept}; charset=utf-8"
        assert headers["Transfer-Encoding"] == "chunked"


def test_prompt_answer_and_figures_are_kept(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("Bon", "jour, ", "le monde."))
    stream = client.stream_text(script.prompt)
    assert stream.text() == "Bonjour, le monde."
    row = client.history(stream.completion_id)
    assert row["prompt"] == script.prompt
    assert row["response"] == "Bonjour, le monde."
    assert (row["request_model"], row["response_model"]) == ("scripted-model", "scripted-model-0001")
    assert (row["input_tokens"], row["output_tokens"]) == (11, 7)
    assert row["created_at"].endswith("Z") and len(row["created_at"]) == len("2026-01-01T00:00:00.000Z")
    assert 0 <= row["time_to_first_token_ms"] <= row["duration_ms"] < 5000
    assert row["owner"] == "local"
    assert delivery_of(client, stream.completion_id) == ("complete", len("Bonjour, le monde."))


def test_the_whole_answer_is_stored_before_its_clean_end_is_seen(client: Client, database: Database, upstream: Upstream) -> None:
    """Every clean end that a client sees has its row, finished, at that very moment."""
    script = upstream.script(*answer("all ", "of ", "it"))
    for _ in range(20):
        stream = client.stream_text(script.prompt)
        stream.text()
        row = database.completion(stream.completion_id)
        assert (row["status"], row["response"]) == ("completed", "all of it")


def test_many_streams_at_once_each_get_their_own_answer(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    scripts = [upstream.script(*held(gate, f"I am {i}, ", f"still {i}")) for i in range(60)]
    streams = [client.stream_text(script.prompt) for script in scripts]
    gate.open()
    for i, stream in enumerate(streams):
        assert stream.text() == f"I am {i}, still {i}"
    assert len({stream.completion_id for stream in streams}) == 60


TEXT, EVENTS = "text/plain", "text/event-stream"


@pytest.mark.parametrize(("accept", "kind_of_stream"), [
    (None, TEXT), ("*/*", TEXT), ("text/*", TEXT), (TEXT, TEXT), ("text/plain; charset=utf-8", TEXT),
    (EVENTS, EVENTS), ("text/event-stream, */*;q=0.1", EVENTS), ("text/plain;q=0.2, text/event-stream;q=0.9", EVENTS),
    ("application/json, text/plain;q=0.1", TEXT), ("text/html, */*;q=0.1", TEXT),
])
def test_accept_chooses_the_format(client: Client, accept: str | None, kind_of_stream: str) -> None:
    headers = {"Accept": accept} if accept else {"Accept": None}
    response = client.call("POST", "/stream", json={"prompt": "Hello"}, headers=headers, stream=True)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith(kind_of_stream)
    TextStream(response).text()


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/plain;q=0", "text/csv, application/xml"])
def test_another_format_is_refused(client: Client, database: Database, upstream: Upstream, accept: str) -> None:
    script = upstream.script(*answer("never"))
    before = database.count()
    is_problem(client.ask(script.prompt, accept=accept), refusal("Accept"))
    assert database.count() == before and not script.calls


def test_the_model_is_asked_as_its_protocol_says(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("yes"))
    client.stream_text(script.prompt).text()
    call = script.call()
    assert (call.method, call.path) == ("POST", "/v1/chat/completions")
    assert call.headers["authorization"] == "Bearer scripted-key"
    assert call.headers["accept-encoding"] == "identity"
    assert call.body["stream"] is True
    assert call.body["stream_options"] == {"include_usage": True}
    assert call.body["model"] == "scripted-model"
    assert call.messages == [{"role": "user", "content": script.prompt}]
    assert not {"temperature", "max_tokens", "max_completion_tokens"} & set(call.body), "what was not asked for is not sent"


def test_model_system_temperature_and_max_tokens_reach_the_model_and_the_row(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("yes"))
    asked = {"model": "other-model", "system": "Be brief.", "temperature": 0.25, "max_tokens": 60}
    stream = client.stream_text(script.prompt, **asked)
    stream.text()
    body = script.call().body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("other-model", 0.25, 60)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    row = client.history(stream.completion_id)
    assert (row["request_model"], row["system"]) == ("other-model", "Be brief.")
    assert row["parameters"] == {"temperature": 0.25, "max_tokens": 60}


@pytest.mark.parametrize("temperature", [0, 2, 1.5])
def test_the_bounds_of_temperature_are_allowed(client: Client, upstream: Upstream, temperature: float) -> None:
    script = upstream.script(*answer("yes"))
    client.stream_text(script.prompt, temperature=temperature).text()
    assert script.call().body["temperature"] == temperature


def test_a_model_that_is_not_offered_is_refused(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("never"))
    assert "model" in is_problem(client.ask(script.prompt, model="gpt-99"), 422)["errors"]
    assert not script.calls


def test_a_body_of_just_the_limit_is_taken(client: Client) -> None:
    prompt = {"prompt": "x" * (262_144 - len('{"prompt": ""}'))}
    assert client.call("POST", "/stream", json=prompt).status_code == 200


def test_no_worker_waits_for_the_kernel_to_widen_its_table_of_descriptors(service: Service) -> None:
    """Growing it holds a process with threads for up to 23 ms, so it has its final size before the first request."""
    for worker in service.workers():
        size, limit = (re.search(pattern, Path(f"/proc/{worker}/{name}").read_text()) for name, pattern in
                       (("status", r"FDSize:\s+(\d+)"), ("limits", r"Max open files\s+(\d+)")))
        assert size and limit and int(size[1]) >= min(int(limit[1]), 65536)
