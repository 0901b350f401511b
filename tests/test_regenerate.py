"""Regenerate: the prompt of an earlier completion once more, in the context that it had."""
import time
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from tests.client import Client
from tests.contract import is_problem, refusal
from tests.exchange import Gate
from tests.service import Database
from tests.steps import answer, delta, done, finish, status, wait_for
from tests.upstream import Upstream


def regenerate(client: Client, completion_id: int, **fields: object) -> int:
    stream = client.stream_text(regenerate=completion_id, **fields)
    stream.text()
    return stream.completion_id


def test_it_asks_the_same_prompt_in_the_context_before_that_turn(client: Client, upstream: Upstream) -> None:
    first, second, third = (upstream.script(*answer(text)) for text in ("one", "two", "three"))
    one = client.stream_text(first.prompt)
    one.text()
    two = client.stream_text(second.prompt, conversation_id=one.conversation_id)
    two.text()
    client.stream_text(third.prompt, conversation_id=one.conversation_id).text()
    again = regenerate(client, two.completion_id)
    assert second.call(2).messages == second.call(1).messages
    row = client.history(again)
    assert (row["prompt"], row["conversation_id"]) == (second.prompt, one.conversation_id)
    assert row["regenerated_from"] == two.completion_id
    assert client.history(two.completion_id)["response"] == "two", "the first answer stays"


def test_a_regeneration_can_be_regenerated(client: Client, upstream: Upstream) -> None:
    first, second = upstream.script(*answer("one")), upstream.script(*answer("two"))
    one = client.stream_text(first.prompt)
    one.text()
    two = client.stream_text(second.prompt, conversation_id=one.conversation_id)
    two.text()
    three = regenerate(client, regenerate(client, two.completion_id))
    assert second.call(3).messages == second.call(1).messages
    assert client.history(three)["prompt"] == second.prompt


def test_the_default_answers_for_a_model_that_is_gone(client: Client, database: Database, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(*answer("old")).prompt)
    stream.text()
    database.execute("UPDATE completions SET request_model = 'retired' WHERE id = :id", id=stream.completion_id)
    assert client.history(regenerate(client, stream.completion_id))["request_model"] == "scripted-model"


def test_later_turns_build_upon_the_latest_regeneration(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("old")).then(*answer("new"))
    stream = client.stream_text(script.prompt)
    stream.text()
    regenerate(client, stream.completion_id)
    following = upstream.script(*answer("yes"))
    client.stream_text(following.prompt, conversation_id=stream.conversation_id).text()
    assert [message["content"] for message in following.call().messages] == [script.prompt, "new", following.prompt]


def test_a_failed_regeneration_leaves_the_earlier_answer_in_the_context(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("good")).then(status(500))
    stream = client.stream_text(script.prompt)
    stream.text()
    is_problem(client.ask(regenerate=stream.completion_id), 502)
    following = upstream.script(*answer("yes"))
    client.stream_text(following.prompt, conversation_id=stream.conversation_id).text()
    assert [message["content"] for message in following.call().messages] == [script.prompt, "good", following.prompt]


def test_a_failed_answer_can_be_regenerated(client: Client, upstream: Upstream) -> None:
    script = upstream.script(status(500)).then(*answer("better"))
    failed = is_problem(client.ask(script.prompt), 502)["completion_id"]
    again = regenerate(client, failed)
    assert client.history(again)["response"] == "better"


def test_it_can_change_the_model_and_the_temperature(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("one"))
    stream = client.stream_text(script.prompt)
    stream.text()
    regenerate(client, stream.completion_id, model="other-model", temperature=1.5)
    body = script.call(2).body
    assert (body["model"], body["temperature"]) == ("other-model", 1.5)


def test_an_answer_that_is_still_being_written_cannot_be_regenerated(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = client.stream_text(upstream.script(delta("slowly"), wait_for(gate), finish(), done()).prompt)
    is_problem(client.ask(regenerate=stream.completion_id), refusal("An answer in this conversation"))
    gate.open()
    stream.text()


def test_what_cannot_be_regenerated_is_refused(client: Client, database: Database) -> None:
    before = database.count()
    is_problem(client.ask(regenerate=987654321), refusal("No such"))
    is_problem(client.ask("both", regenerate=1), 422)
    is_problem(client.ask(), 422)
    assert database.count() == before


def test_an_older_turn_asked_again_without_a_system_message_leaves_later_ones_theirs(client: Client, upstream: Upstream) -> None:
    one = client.stream_text(upstream.script(*answer("one")).then(*answer("one again")).prompt)
    one.text()
    client.stream_text(upstream.script(*answer("two")).prompt, conversation_id=one.conversation_id, system="Be brief.").text()
    regenerate(client, one.completion_id, system="")
    last = upstream.script(*answer("three"))
    client.stream_text(last.prompt, conversation_id=one.conversation_id).text()
    assert last.call().messages[0] == {"role": "system", "content": "Be brief."}


def test_what_is_deleted_while_it_is_asked_again_is_not_there(client: Client, database: Database) -> None:
    first = client.stream_text("Hello")
    first.text()
    second = client.stream_text("And now?", conversation_id=first.conversation_id)
    second.text()
    with ThreadPoolExecutor(1) as pool, database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM completions WHERE id = :id"), {"id": second.completion_id})
        asked = pool.submit(client.ask, regenerate=second.completion_id)
        time.sleep(1)  # it is found and waits to be written by then; nothing outside shows that, and later is as good
    is_problem(asked.result(), 404)
