"""Clients that leave, in every way there is: it costs no answer, and nothing is held for them for long."""
import itertools
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.client import eventually
from tests.exchange import Gate
from tests.faults.harness import Missing, NotApplicable, Probe, Result, Run
from tests.faults.machine import Machine, another_machine
from tests.faults.numbered import prompt
from tests.faults.pair import quit_at_once
from tests.faults.sockets import inode_of
from tests.faults.wire import Wire, Wires
from tests.people import wait_closed
from tests.service import ROOT, Service
from tests.steps import delta, done, finish, pause, wait_for

HELD_S = 35.0  # no connection of a client that is gone is kept for longer
PATIENT = {"LLMSTREAM_IDLE_TIMEOUT_S": 120, "LLMSTREAM_FIRST_TOKEN_TIMEOUT_S": 120}  # a silent model ends nothing here
HASTY = {"LLMSTREAM_READER_TIMEOUT_S": 2}  # instead of 15: the short pass shows the same in less time
GAP_MS = 50.0  # nothing holds a worker's hub for longer
LAST = [[delta(f"and ü{i} "), pause(0.02)] for i in range(20)]
REST = "".join(f"and ü{i} " for i in range(20))
SEEN = "seen ü "


def with_login(service: Service) -> Service:
    """Without one, a client on another machine is refused."""
    assert service.database
    database = {"DATABASE_URL": service.database.url}
    environ = os.environ | database | {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"}

    def flask(*words: str) -> str:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *words]
        return subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True).stdout

    flask("user", "add", "ana", "--role", "admin", "--no-password")
    secret = flask("key", "add", "leaving", "--user", "ana").split()[-1]
    wait_closed(service)
    service.client.headers["Authorization"] = f"Bearer {secret}"
    return service


def leaves(run: Run) -> Result:
    """Clients hang up in every way; their answers are finished and kept, they are let go, and nobody else notices."""
    if run.kind == "postgresql" and not run.long:
        raise NotApplicable  # it differs in nothing that a client who leaves could meet
    result = Result("client leaves")
    service = with_login(run.start(**PATIENT, **run.pick(HASTY, {})))
    with Wires() as wires, ThreadPoolExecutor(64) as pool, ExitStack() as ends:
        others = [wires.ask(service, prompt(run.pick(120, 800), 50), events=bool(i % 2)) for i in range(10)]
        probe = ends.enter_context(run.probe(service))
        for wire in others:
            wire.until(20)
        probe.worst()  # what a worker does for the first time is not the leavers' doing
        cases = [(how, silent, begun, events) for how in ("FIN", "RST") for silent in (False, True)
                 for begun in (False, True) for events in (False, True)]
        leaving = [pool.submit(leave, run, service, wires, result, *case) for case in cases]
        leaving += [pool.submit(half_close, run, service, wires, result, *case)
                    for case in itertools.product((False, True), repeat=2)]
        leaving += [pool.submit(stop_reading, run, service, wires, result, events) for events in (False, True)]
        try:
            machine = ends.enter_context(another_machine())
            leaving += [pool.submit(lose_link, run, service, wires, result, machine, *case)
                        for case in itertools.product((False, True), repeat=3)]
        except Missing as missing:
            result.notes = f"without a link that goes down: {missing}"
            result.expect(not os.environ.get("CI"), result.notes)
        for case in leaving:
            case.result()
        unharmed(result, others, probe)
    result.rounds = len(leaving)
    quit_at_once(service)
    return result


def leave(run: Run, service: Service, wires: Wires, result: Result, how: str, silent: bool, begun: bool, events: bool) -> None:
    """Hang up, before or after the first text, while the model goes on or is silent."""
    name = f"{how} {when(begun, silent, events)}"
    gate = Gate()
    script = run.upstream.script(delta(SEEN) if begun else [], wait_for(gate), LAST, finish(), done())
    wire = wires.ask(service, script.prompt, events=events)
    script.call()
    if begun:
        wire.until(len(SEEN.encode()))
    held = descriptor(service, wire)
    wires.leave(wire, how)
    if not silent:
        gate.open()
    let_go(run, held, wire.ended_at, result, name)
    gate.open()
    kept(service, result, name, script.prompt, (SEEN if begun else "") + REST, "left")


def half_close(run: Run, service: Service, wires: Wires, result: Result, begun: bool, events: bool) -> None:
    """A client that has said all it had to say still listens."""
    name = f"half close {when(begun, False, events)}"
    gate = Gate()
    script = run.upstream.script(delta(SEEN) if begun else [], wait_for(gate), LAST, finish(), done())
    wire = wires.ask(service, script.prompt, events=events)
    script.call()
    if begun:
        wire.until(len(SEEN.encode()))
    wires.leave(wire, "half")
    gate.open()
    wire.over()
    expected = (SEEN if begun else "") + REST
    result.expect(wire.succeeded and wire.text.decode() == expected, f"{name}: {wire}")
    kept(service, result, name, script.prompt, expected, "complete")


def stop_reading(run: Run, service: Service, wires: Wires, result: Result, events: bool) -> None:
    """A client that reads nothing more, of an answer larger than all the buffers on the way."""
    name = f"a reader that stops, {'events' if events else 'text'}"
    pieces = ["ü" * 10_000] * 150
    script = run.upstream.script([delta(piece) for piece in pieces], finish(), done())
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", service.port))
    wire = wires.ask(service, script.prompt, events=events, sock=sock, read=False)
    let_go(run, descriptor(service, wire), wire.asked_at, result, name)
    kept(service, result, name, script.prompt, "".join(pieces), "left")
    sock.close()


def lose_link(run: Run, service: Service, wires: Wires, result: Result, machine: Machine,
              silent: bool, begun: bool, events: bool) -> None:
    name = f"link down {when(begun, silent, events)}"
    gate, long = Gate(), run.pick(60, 450)  # until after it must be let go
    rest = [[delta(f"and {i} "), pause(0.1)] for i in range(20 if silent else long)]
    script = run.upstream.script(delta(SEEN) if begun else [], wait_for(gate), rest, finish(), done())
    wire = wires.ask(service, script.prompt, events=events, sock=machine.connect(service))
    script.call()
    if begun:
        wire.until(len(SEEN.encode()))
    held = descriptor(service, wire)
    machine.all_there.wait(20)
    machine.go_down()
    down_at = time.monotonic()
    if not silent:
        gate.open()
    let_go(run, held, down_at, result, name)
    gate.open()
    expected = (SEEN if begun else "") + "".join(f"and {i} " for i in range(len(rest)))
    kept(service, result, name, script.prompt, expected, "left")


def when(begun: bool, silent: bool, events: bool) -> str:
    return f"{'midway' if begun else 'before the first text'}, {'silent model' if silent else 'text flows'}, " \
           f"{'events' if events else 'text'}"


def let_go(run: Run, held: "Held", since: float, result: Result, name: str) -> None:
    """Wait until the service has closed its side; more than HELD_S is a breach."""
    limit_s = run.pick(HELD_S * 2 / 15 + 2, HELD_S)  # the kernel looks for a dead link in whole seconds
    with suppress(AssertionError):
        eventually(lambda: not held.is_open(), limit_s + 5 - (time.monotonic() - since), "the end of the connection")
    seconds = time.monotonic() - since
    result.worst("held ms", seconds * 1000)
    result.expect(seconds <= limit_s, f"{name}: held for {seconds:.0f} s and more")


class Held(NamedTuple):
    """A descriptor of a worker. Its number may be given to another file later."""

    path: Path
    is_for: str

    def is_open(self) -> bool:
        try:
            return os.readlink(self.path) == self.is_for
        except OSError:
            return False


def descriptor(service: Service, wire: Wire) -> Held:
    """The service's end of this client's connection, which may take a moment to be accepted."""
    def look() -> Held | None:
        inode = inode_of(("127.0.0.1", service.port), wire.address)
        for worker in service.workers():
            for path in Path(f"/proc/{worker}/fd").iterdir():
                with suppress(OSError):
                    if inode and os.readlink(path) == f"socket:[{inode}]":
                        return Held(path, f"socket:[{inode}]")
        return None
    held = eventually(look, 10, f"a connection from {wire.address}")
    assert held
    return held


def kept(service: Service, result: Result, name: str, asked: str, expected: str, delivery: str) -> None:
    """The answer is in history, whole, and its row says what was delivered."""
    def row_of() -> dict[str, Any] | None:
        rows = service.database.rows(  # type: ignore[union-attr]
            "SELECT id, status, response, delivery FROM completions WHERE prompt = :prompt", prompt=asked)
        return rows[0] if rows and rows[0]["status"] != "in_progress" and rows[0]["delivery"] else None
    try:
        row = eventually(row_of, 60, f"{name}: the end of the answer and the note of its delivery")
    except AssertionError as error:
        result.breaches.append(str(error))
        return
    whole_in_history = row and row["status"] == "completed" and row["response"] == expected
    result.clean += bool(whole_in_history)
    result.wrong += not whole_in_history
    assert row
    result.expect(whole_in_history, f"{name}: history says {row['status']}, {len(row['response'])} characters")
    result.expect(row["delivery"] == delivery, f"{name}: delivery is {row['delivery']}")


def unharmed(result: Result, others: list[Wire], probe: Probe) -> None:
    """Streams that had nothing to do with it ended cleanly, and nobody waited for a worker."""
    _, own_ms = probe.worst()
    result.worst("gap ms", own_ms)
    result.expect(own_ms < GAP_MS, f"a request waited {own_ms:.0f} ms for a worker")
    for wire in others:
        wire.over(60)
        result.expect(wire.succeeded, f"another stream: {wire}")
        result.clean += wire.succeeded
