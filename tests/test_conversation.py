"""Turns of one conversation: what the model is told of the earlier ones, and what is left out when its context is full."""
from tests.client import Client
from tests.contract import assert_ends, is_problem, refusal
from tests.exchange import Gate
from tests.service import Database, Service
from tests.steps import answer, close, context_error, delta, done, finish, status, wait_for
from tests.upstream import Script, Upstream

CONTEXT_BYTES = 8192 * 3  # the default of LLMSTREAM_CONTEXT_TOKENS at 3 bytes a token


def turn(client: Client, script: Script, conversation_id: int | None = None, prompt: str = "", **fields: object) -> int:
    """One completed turn; the id of its completion."""
    if conversation_id is not None:
        fields["conversation_id"] = conversation_id
    stream = client.stream_text(prompt + script.prompt, **fields)
    stream.text()
    return stream.completion_id


def told(script: Script) -> list[tuple[str, str]]:
    """The messages of the first call, as (role, content)."""
    return [(message["role"], message["content"]) for message in script.call().messages]


def test_a_later_turn_tells_the_model_the_earlier_ones(client: Client, upstream: Upstream) -> None:
    first, second = upstream.script(*answer("Paris", ".")), upstream.script(*answer("2 million."))
    conversation_id = client.history(turn(client, first))["conversation_id"]
    turn(client, second, conversation_id, system="Be brief.")
    assert told(second) == [
        ("system", "Be brief."), ("user", first.prompt), ("assistant", "Paris."), ("user", second.prompt)]


def test_conversations_do_not_mix(client: Client, upstream: Upstream) -> None:
    first, second = upstream.script(*answer("one")), upstream.script(*answer("two"))
    ids = [turn(client, first), turn(client, second)]
    assert told(second) == [("user", second.prompt)]
    assert len({client.history(id)["conversation_id"] for id in ids}) == 2


def test_an_answer_that_failed_is_not_told(client: Client, upstream: Upstream) -> None:
    first = upstream.script(*answer("kept"))
    conversation_id = client.history(turn(client, first))["conversation_id"]
    for broken in (upstream.script(status(500)), upstream.script(delta("half"), close())):
        response = client.ask(broken.prompt, conversation_id=conversation_id)
        client.finished(int(response.headers["Completion-Id"]))
    last = upstream.script(*answer("yes"))
    turn(client, last, conversation_id)
    assert told(last) == [("user", first.prompt), ("assistant", "kept"), ("user", last.prompt)]


def test_what_was_there_of_a_stopped_answer_is_told(client: Client, upstream: Upstream) -> None:
    stopped = upstream.script(delta("as far as this"), wait_for(Gate()))
    stream = client.stream_text(stopped.prompt)
    stream.read_until("this")
    assert client.stop(stream.completion_id).status_code == 200
    last = upstream.script(*answer("yes"))
    turn(client, last, stream.conversation_id)
    assert told(last) == [("user", stopped.prompt), ("assistant", "as far as this"), ("user", last.prompt)]


def test_the_oldest_turns_are_dropped_when_the_context_is_full_and_the_row_says_how_many(
        client: Client, upstream: Upstream) -> None:
    scripts = [upstream.script(*answer(f"answer {i}")) for i in range(5)]
    conversation_id = client.history(turn(client, scripts[0], prompt="x" * 7000))["conversation_id"]
    for script in scripts[1:]:
        last = turn(client, script, conversation_id, prompt="x" * 7000)
    messages = told(scripts[-1])
    assert sum(len(content) for _, content in messages) <= CONTEXT_BYTES
    assert messages[-1][1].endswith(scripts[-1].prompt), "the prompt itself is never dropped"
    users = [content for role, content in messages if role == "user"]
    prompts = [script.prompt for content in users for script in scripts if content.endswith(script.prompt)]
    assert prompts == [script.prompt for script in scripts[-len(prompts):]], "the oldest go first, none in between"
    assert messages[0][0] == "user", "a turn is dropped whole"
    assert client.history(last)["dropped_turns"] == 5 - len(prompts) >= 2


def test_the_context_error_of_the_model_is_answered_once_with_half_the_turns(client: Client, upstream: Upstream) -> None:
    scripts = [upstream.script(*answer(f"answer {i}")) for i in range(4)]
    conversation_id = client.history(turn(client, scripts[0]))["conversation_id"]
    for script in scripts[1:]:
        turn(client, script, conversation_id)
    full = upstream.script(context_error()).then(*answer("fits now"))
    last = turn(client, full, conversation_id)
    assert len(full.calls) == 2
    assert len(full.call(1).messages) == 9
    assert full.call(2).messages == full.call(1).messages[4:]
    assert client.history(last)["dropped_turns"] == 2


def test_a_prompt_that_never_fits_fails_as_documented(client: Client, upstream: Upstream) -> None:
    script = upstream.script(context_error())
    assert_ends(client, script, "context_length_exceeded", "")
    conversation_id = client.history(turn(client, upstream.script(*answer("one"))))["conversation_id"]
    again = upstream.script(context_error())
    is_problem(client.ask(again.prompt, conversation_id=conversation_id), 422)
    assert len(again.calls) == 2, "one retry, not more"


def test_a_conversation_that_is_full_is_kept_and_goes_no_further(
        client: Client, database: Database, upstream: Upstream) -> None:
    first = turn(client, upstream.script(*answer("one")))
    conversation_id = client.history(first)["conversation_id"]
    database.execute("UPDATE completions SET response = :long WHERE id = :id", id=first, long="x" * 8_000_001)
    assert "full" in str(is_problem(client.ask("more", conversation_id=conversation_id), 422)["errors"])
    assert "full" in str(is_problem(client.call("POST", "/stream", json={"regenerate": first}), 422)["errors"])
    database.execute("DELETE FROM completions WHERE id = :id", id=first)


def test_only_one_answer_at_a_time_is_written_in_a_conversation(
        service: Service, twin: Service, database: Database, upstream: Upstream) -> None:
    gate = Gate()
    running = upstream.script(delta("slowly"), wait_for(gate), finish(), done())
    stream = service.client.stream_text(running.prompt)
    impatient = upstream.script(*answer("never"))
    before = database.count()
    for instance in (service, service, service, twin):
        response = instance.client.ask(impatient.prompt, conversation_id=stream.conversation_id)
        is_problem(response, refusal("An answer in this conversation"))
    assert database.count() == before and not impatient.calls
    gate.open()
    stream.text()
    turn(service.client, upstream.script(*answer("now")), stream.conversation_id)


def test_the_history_of_one_shows_its_whole_conversation_in_order(client: Client, upstream: Upstream) -> None:
    first = turn(client, upstream.script(*answer("one")))
    conversation_id = client.history(first)["conversation_id"]
    ids = [first, *(turn(client, upstream.script(*answer("more")), conversation_id) for _ in range(2))]
    for id in ids:
        assert client.history(id)["conversation"] == ids


def test_without_a_login_everybody_may_go_on_everywhere(client: Client, database: Database, upstream: Upstream) -> None:
    first = client.stream_text(upstream.script(*answer("one")).prompt)
    first.text()
    for table, column in (("conversations", "id"), ("completions", "conversation_id")):
        database.execute(f"UPDATE {table} SET owner = 'mara' WHERE {column} = :id", id=first.conversation_id)
    assert client.stream_text(upstream.script(*answer("two")).prompt, conversation_id=first.conversation_id).text() == "two"
    assert client.stream_text(regenerate=first.completion_id).conversation_id == first.conversation_id
