"""Clients that come back, ask again, or stop an answer, wherever it is being written."""
import itertools
import os
import signal
import time
import uuid
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor

from tests.client import eventually
from tests.exchange import Gate
from tests.faults.cores import Starvation
from tests.faults.harness import RECOVERED_S, NotApplicable, Result, Run
from tests.faults.pair import Pair, pair
from tests.faults.wire import Wire, Wires
from tests.service import Service
from tests.steps import close, delta, done, finish, pause, wait_for
from tests.upstream import Script

LAG_MS = 500.0  # from the live stream to the one who came back, at the 99th percentile
STOPPED_S = 1.0  # from the request to stop until the model is hung up on
WORDS = [f"naïve{i} 😀 שלום 𝄞e\u0301 " for i in range(10)]
FIRST, LAST = WORDS[:3], WORDS[3:]
WHOLE = "".join(WORDS).encode()
HALF = len("".join(FIRST).encode())


def comes_back(run: Run) -> Result:
    """Readers join at every byte, through every worker of two instances; some while the worker that writes is killed."""
    result, lags_ms = Result("client returns"), list[float]()
    with Wires() as wires, pair(run) as two:
        for number in range(run.pick(1, 20)):
            lost = lose_the_writer(run, two, wires)
            join_everywhere(result, two, wires, lags_ms)  # recovery takes some seconds
            recovered(run, result, two, wires, *lost)
            result.rounds = number + 1
    lags_ms.sort()
    lag_ms = lags_ms[int(len(lags_ms) * 0.99)]
    result.worst("lag ms p99", lag_ms)
    allowed_ms = LAG_MS + result.worsts["ms without a core"]
    result.expect(lag_ms <= allowed_ms, f"who came back was {lag_ms:.0f} ms behind the live stream at the 99th percentile")
    return result


def join_everywhere(result: Result, two: Pair, wires: Wires, lags_ms: list[float]) -> None:
    gate = Gate()
    script = two.upstream.script([delta(word) for word in FIRST], wait_for(gate),
                                 [[delta(word), pause(0.1)] for word in LAST], finish(), done())
    live = wires.ask(two.one, script.prompt)
    live.until(HALF)
    joined = [(after, wires.follow(service, live.completion_id, after, events=events))
              for after in range(HALF + 1) for service in (two.one, two.other) for events in (False, True)
              if is_boundary(after) or not events]
    for after, wire in joined:
        wire.until(HALF - after)
    workers = Starvation(*two.one.workers(), *two.other.workers())
    gate.open()
    judge(result, live, 0, WHOLE)
    for after, wire in joined:
        judge(result, wire, after, WHOLE)
    starved_ms = workers.seconds() * 1000
    result.worst("ms without a core", starved_ms)
    for after, wire in joined:
        lags_ms += lags(live, wire, after)
    for after in range(len(WHOLE) + 1):
        judge(result, wires.follow((two.one, two.other)[after % 2], live.completion_id, after), after, WHOLE)


def is_boundary(offset: int) -> bool:
    return offset >= len(WHOLE) or WHOLE[offset] & 0xC0 != 0x80


def judge(result: Result, wire: Wire, after: int, expected: bytes) -> None:
    wire.over()
    result.clean += wire.succeeded
    if not (wire.succeeded and wire.text == expected[after:]):
        result.wrong += 1
        result.breaches.append(f"from byte {after} on: {len(wire.text)} of {len(expected) - after} bytes; {wire}")


def lags(live: Wire, wire: Wire, after: int) -> list[float]:
    """How long after the live stream each piece came, ms; of what was written while both were there."""
    known, behind = [size for _, size in live.arrivals], []
    for (_, before), (at, _) in itertools.pairwise([(0.0, 0), *wire.arrivals]):
        first_new = live.arrivals[bisect_left(known, after + before + 1)][0]
        if first_new > wire.opened_at:
            behind.append((at - first_new) * 1000)
    return behind


def lose_the_writer(run: Run, two: Pair, wires: Wires) -> tuple[list[tuple[int, Wire]], float]:
    """Kill the worker that writes an answer under its readers. Gives each reader with its offset, and when it was."""
    script = two.upstream.script([[delta(word), pause(0.02)] for word in WORDS * 60], finish(), done())
    live = wires.ask(two.one, script.prompt)
    live.until(HALF)
    writer = int(two.database.completion(live.completion_id)["worker_id"].rpartition(":")[2])
    afters = [run.random.randrange(HALF) for _ in range(20)]
    afters = [after for after in afters if is_boundary(after)]
    joined = [(after, wires.follow((two.one, two.other)[i % 2], live.completion_id, after, events=bool(i % 3)))
              for i, after in enumerate(afters)]
    for after, wire in joined:
        wire.until(HALF - after + 1)
    os.kill(writer, signal.SIGKILL)
    killed_at = time.monotonic()
    live.over()
    return [(0, live), *joined], killed_at


def recovered(run: Run, result: Result, two: Pair, wires: Wires, readers: list[tuple[int, Wire]], killed_at: float) -> None:
    """All of them saw the same beginning of the answer, and a cut; who comes again gets what was kept."""
    for _, wire in readers:
        wire.over(RECOVERED_S + 15)
    live = readers[0][1]
    row = eventually(lambda: (row := two.database.completion(live.completion_id))["status"] != "in_progress" and row,
                     20, "recovery")
    result.recovered(max(wire.ended_at for _, wire in readers) - killed_at)
    stored = row["response"].encode()
    result.expect((row["status"], row["error_type"]) == ("incomplete", "worker_lost"), f"the killed one: {row['status']}")
    result.expect(f"{len(row['response']):,} characters were kept" in row["reason"], f"the reason: {row['reason']}")
    expected = ("".join(WORDS) * 60).encode()
    for after, wire in readers:
        longest = max(stored, expected[:after + len(wire.text)], key=len)
        result.expect(expected.startswith(longest) and wire.text == longest[after:after + len(wire.text)],
                      f"from byte {after} on, of a killed one: other bytes")
        result.expect(not wire.succeeded, f"from byte {after} on, of a killed one: a clean end")
        if wire.end.get("event"):
            result.expect((wire.end["event"], wire.text) == ("incomplete", stored[after:]), f"a killed one was told: {wire}")
        result.cut += 1
    for after in (after for after in range(0, len(stored) + 1, run.pick(37, 1)) if after < len(stored)):
        again = wires.follow((two.one, two.other)[after % 2], live.completion_id, after).over()
        result.expect((again.ended, again.text) == ("cut", stored[after:]), f"again from byte {after} on: {again}")


def retry_storm(run: Run) -> Result:
    """50 times the same prompt with one key at the same moment, over two instances: one answer."""
    result = Result("retry storm")
    with Wires() as wires, pair(run) as two:
        for number in range(run.pick(3, 200)):
            script = two.upstream.script([[delta(word), pause(0.01)] for word in FIRST], finish(), done())
            storm(result, two, wires, script, "".join(FIRST).encode(), 200)
            script = two.upstream.script(pause(0.1), close())
            if number % 3 == 0:
                storm(result, two, wires, script, b"", 502)
            result.rounds = number + 1
    return result


def storm(result: Result, two: Pair, wires: Wires, script: Script, expected: bytes, status: int) -> None:
    """All 50 get the same, whether it is an answer or its failure before the first text."""
    key = str(uuid.uuid4())
    sockets = [service.connect() for service in (two.one, two.other) * 25]
    asked = [wires.ask(two.one if i % 2 == 0 else two.other, script.prompt, key=key, sock=sock, events=False)
             for i, sock in enumerate(sockets)]
    for wire in asked:
        wire.over()
        if (wire.status, wire.text, wire.ended) == (status, expected, "clean" if status == 200 else "refused"):
            result.clean += status == 200
        else:
            result.wrong += 1
            result.breaches.append(f"one of 50: {wire}")
    rows = two.database.value("SELECT count(*) FROM completions WHERE idempotency_key = :key", key=key)
    result.expect(rows == 1, f"{rows} rows for one key")
    result.expect(len(script.calls) == 1, f"the model was asked {len(script.calls)} times for one key")
    result.expect(len({wire.headers.get("completion-id") for wire in asked}) == 1, "not the same completion")


def stop(run: Run) -> Result:
    """Answers are stopped through another worker: as text flows, while the model is silent, before the first text."""
    result = Result("stop")
    kinds = list(itertools.product(("flowing", "silent", "before"), (False, True)))
    with Wires() as wires, pair(run) as two, ThreadPoolExecutor(len(kinds)) as pool:
        for number in range(run.pick(2, 100)):
            stopping = [pool.submit(stop_one, result, two, wires, kind, events) for kind, events in kinds]
            for one in stopping:
                one.result()
            result.rounds = (number + 1) * len(kinds)
    return result


def stop_one(result: Result, two: Pair, wires: Wires, kind: str, events: bool) -> None:
    name = f"stop ({kind}, {'events' if events else 'text'})"
    seen = "" if kind == "before" else "as far "
    script = two.upstream.script(delta(seen) if seen else [], [[delta("on "), pause(0.02)] for _ in range(500)]
                                 if kind == "flowing" else wait_for(Gate()), finish(), done())
    wire = wires.ask(two.one, script.prompt, events=events)
    call = script.call()
    wire.until(len(seen))
    workers = Starvation(*two.one.workers(), *two.other.workers())
    completion_id = two.database.value("SELECT id FROM completions WHERE prompt = :prompt", prompt=script.prompt)
    asked_at = time.monotonic()
    response = two.other.client.stop(completion_id)
    closed_s = call.wait_closed(10) - asked_at
    result.recovered(closed_s, STOPPED_S + workers.seconds())
    wire.over(5)
    row = two.database.completion(completion_id)
    result.expect(response.status_code in (200, 202), f"{name}: DELETE gave {response.status_code}")
    result.expect((row["status"], row["response"]) == ("cancelled", wire.text.decode()),
                  f"{name}: {row['status']} with {row['response']!r:.80}, and the client saw {wire.text!r:.80}")
    result.expect(wire.text.decode().startswith(seen), f"{name}: {wire}")
    told = {"before": (409, "refused"), "flowing": (200, "cut"), "silent": (200, "cut")}[kind]
    if events:
        result.expect((wire.ended, wire.end.get("event")) == ("clean", "cancelled"), f"{name}: {wire}")
    else:
        result.expect((wire.status, wire.ended) == told, f"{name}: {wire}")
    result.cut += 1


def two_instances(run: Run) -> Result:
    """Two instances behind one PostgreSQL, the way to outgrow a machine: each shows, follows and stops the other's answers."""
    if run.kind != "postgresql":
        raise NotApplicable
    result = Result("two instances")
    with Wires() as wires, pair(run) as two:
        for number in range(run.pick(2, 50)):
            for here, there in ((two.one, two.other), (two.other, two.one)):
                serve_each_other(result, two, wires, here, there)
            result.rounds = 2 * (number + 1)
    return result


def serve_each_other(result: Result, two: Pair, wires: Wires, here: Service, there: Service) -> None:
    gate = Gate()
    script = two.upstream.script(delta(FIRST[0]), wait_for(gate), delta(FIRST[1]), finish(), done())
    live = wires.ask(here, script.prompt)
    live.until(len(FIRST[0].encode()))
    followed = wires.follow(there, live.completion_id, events=True)
    followed.until(len(FIRST[0].encode()))
    result.expect(there.client.history(live.completion_id)["status"] == "in_progress", "history elsewhere does not show it live")
    gate.open()
    for wire in (live, followed):
        judge(result, wire, 0, "".join(FIRST[:2]).encode())
    delivered(there, live.completion_id)
    result.expect(there.client.history(live.completion_id) == here.client.history(live.completion_id), "two histories differ")
    again = there.client.stream_text(script.prompt, conversation_id=live.conversation_id)
    result.expect(again.text() == "".join(FIRST[:2]), "another answer")
    result.expect(len(script.call(2).messages) == 3, "a conversation does not go on elsewhere")


def delivered(service: Service, completion_id: int) -> None:
    """Wait for the note of the delivery, the last that is written of a row."""
    eventually(lambda: service.client.history(completion_id)["delivery"], 5, "the note of the delivery")
