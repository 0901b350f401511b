"""How much one key and one address may ask for: exact over workers and instances, told with Retry-After, and nothing kept."""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.client import Client, eventually
from tests.conftest import Launch
from tests.contract import delivery_of, is_problem
from tests.exchange import Gate
from tests.people import Team, command, wait_closed
from tests.service import Database, Service, one_database
from tests.steps import answer, held
from tests.upstream import Script, Upstream

NINE = 9  # so many of MANY pass
MANY = 50
_names = itertools.count(1)


def program(service: Service, *instances: Service) -> list[Client]:
    """A new user's key, at each of these instances on one database."""
    assert service.database
    name = f"user{next(_names)}"
    command(service.database, "user", "add", name, "--no-password")
    secret = command(service.database, "key", "add", "k", "--user", name).split()[-1]
    clients = [Client(each.url, {"Authorization": f"Bearer {secret}"}) for each in (service, *instances)]
    for each in (service, *instances):
        wait_closed(each)
    return clients


def all_at_once(clients: list[Client], script: Script) -> Counter[int]:
    """The statuses of MANY prompts sent in parallel, taking turns between the instances."""

    def ask(number: int) -> requests.Response:
        return clients[number % len(clients)].ask(script.prompt)

    with ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(ask, range(MANY)))
    for refused in (each for each in answers if each.status_code == 429):
        assert int(refused.headers["Retry-After"]) > 0 and is_problem(refused, 429)["detail"]
    return Counter(each.status_code for each in answers)


def reading_at_once(clients: list[Client], completion_id: int) -> int:
    """How many of 2 x MANY readers of an answer that is being written are let in."""

    def read(number: int) -> requests.Response:
        return clients[number % len(clients)].call("GET", f"/stream/{completion_id}", stream=True)

    with ThreadPoolExecutor(2 * MANY) as pool:
        readers = list(pool.map(read, range(2 * MANY)))
    for reader in readers:
        reader.close()
    return sum(reader.status_code == 200 for reader in readers)


def test_of_many_prompts_at_once_exactly_so_many_pass(
    start: Launch, new_database: Callable[[], Database], upstream: Upstream
) -> None:
    database = new_database()
    limits = {"LLMSTREAM_REQUESTS_PER_MINUTE": NINE, "WEB_CONCURRENCY": 2}
    service = start(database, **limits)
    clients = program(service, *([start(database, **limits)] if database.kind == "postgresql" else []))
    talks = database.value("SELECT count(*) FROM conversations")
    assert all_at_once(clients, upstream.script(*answer("yes"))) == {200: NINE, 429: MANY - NINE}
    assert (database.count(), database.value("SELECT count(*) FROM conversations")) == (NINE, talks + NINE)
    is_problem(clients[0].call("POST", "/stream", json={"prompt": "one more"}, headers={"Accept": "text/event-stream"}), 429)
    another = program(service)[0]
    refused = another.ask("from the same address")
    assert refused.status_code == 429, "an address counts, too, whatever the key"


def test_of_many_streams_at_once_exactly_so_many_run(
    start: Launch, new_database: Callable[[], Database], upstream: Upstream
) -> None:
    database = new_database()
    limits = {"LLMSTREAM_STREAMS_AT_ONCE": NINE, "WEB_CONCURRENCY": 2}
    service = start(database, **limits)
    clients = program(service, *([start(database, **limits)] if database.kind == "postgresql" else []))
    gate = Gate()
    assert all_at_once(clients, upstream.script(*held(gate, "be", "gun"))) == {200: NINE, 429: MANY - NINE}
    assert database.count() == NINE
    assert 0 < reading_at_once(clients, database.value("SELECT max(id) FROM completions")) < 2 * MANY, "readers count, too"
    gate.open()
    eventually(lambda: not database.rows("SELECT id FROM completions WHERE status = 'in_progress'"), 10, "their ends")
    again = upstream.script(*answer("again"))
    eventually(lambda: clients[0].ask(again.prompt).text == "again", 10, "room for another")


@one_database
def test_a_repeat_by_its_idempotency_key_does_not_count(start: Launch, upstream: Upstream) -> None:
    client = program(start(LLMSTREAM_REQUESTS_PER_MINUTE=2, WEB_CONCURRENCY=1))[0]
    script, keyed = upstream.script(*answer("once")), {"Idempotency-Key": "one"}
    ids = {client.stream_text(script.prompt, headers=keyed).completion_id for _ in range(6)}
    assert len(ids) == 1
    assert client.ask(script.prompt).status_code == 200 and client.ask(script.prompt).status_code == 429


def test_bytes_of_a_day_are_counted_as_they_were_sent(start: Launch, upstream: Upstream) -> None:
    service = start(LLMSTREAM_BYTES_PER_DAY=100, WEB_CONCURRENCY=1)
    client = program(service)[0]
    for _ in range(2):
        sent = client.stream_text(upstream.script(*answer("x" * 60)).prompt)
        sent.text()
        delivery_of(client, sent.completion_id)
    refused = is_problem(client.ask("more"), 429)
    assert "100 bytes" in refused["detail"]
    form = client.call("POST", "/", data={"prompt": "more, by the form"})
    assert (form.status_code, form.headers["Retry-After"]) == (429, "3600") and "Try again in 3600 s." in form.text
    assert service.database and service.database.count() == 2
    assert client.history(sent.completion_id)["response"] == "x" * 60, "what there is may still be read"


def test_requests_of_any_kind_are_counted_over_all_workers(start: Launch, new_database: Callable[[], Database]) -> None:
    database = new_database()
    service = start(database, LLMSTREAM_CALLS_PER_MINUTE=MANY, WEB_CONCURRENCY=2)
    client = program(service)[0]
    if time.time() % 60 > 40:
        time.sleep(60 - time.time() % 60)  # all of it within one minute
    taken = 0
    while (answered := client.get("/history?limit=1")).status_code == 200:
        taken += 1
        if taken % 10 == 0:  # they are shared once a second
            eventually(lambda: (database.value("SELECT max(requests) FROM usage") or 0) >= taken, 5, "the count of both workers")  # noqa: B023
    assert MANY / 2 < taken < 1.6 * MANY, "each worker alone would have let that many pass"
    assert 0 < int(answered.headers["Retry-After"]) <= 60 and "requests a minute" in is_problem(answered, 429)["detail"]
    assert client.get("/static/css/base.css").status_code == 200
    stranger = Client(service.url)
    eventually(lambda: stranger.get("/history").status_code == 429, 3, "the limit of strangers at the same address")


@one_database
def test_the_chat_page_says_it_in_words_and_keeps_the_prompt(team: Team, start: Launch, upstream: Upstream) -> None:
    service = start(team.database, LLMSTREAM_REQUESTS_PER_MINUTE=1, LLMSTREAM_CALLS_PER_MINUTE=10**6, WEB_CONCURRENCY=1)
    key = {"Authorization": f"Bearer {team.keys['eve']}", "Accept": "text/html"}
    client = Client(service.url, key)
    for _ in range(2):
        told = client.call("POST", "/", data={"prompt": upstream.script(*answer("yes")).prompt + " keep me"})
    assert told.status_code == 429 and "prompts a minute" in told.text and "keep me" in told.text
