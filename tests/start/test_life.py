"""The service with its own model, from start to end: nothing slow, nothing lost meanwhile, nothing left behind."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client import eventually
from tests.service import ROOT, Database, Service, free_port
from tests.start.processes import ctrl_c, environ, marked, models, the_model, wait_until_none_is_left

pytestmark = pytest.mark.alone
PROMPT = {"prompt": "Tell me a story about a fox.", "max_tokens": 40}


@pytest.fixture
def start_real(tmp_path: Path) -> Iterator[Callable[[], Service]]:
    """Starts a service with the bundled model; `str(tmp_path)` marks its processes."""
    def start() -> Service:
        return Service(tmp_path, Database(f"sqlite:///{tmp_path}/real.db"), MARK=tmp_path).wait_ready()
    yield start
    for process in marked(str(tmp_path)):
        process.kill()


def test_make_run_says_where_it_is_starts_in_5_s_without_network_and_leaves_nothing(tmp_path: Path) -> None:
    """The start that every day sees: all is installed. Our own environment stands in for .venv."""
    for path in ROOT.iterdir():
        if path.name not in (".venv", "instance"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        (tmp_path / ".venv" / path.name).symlink_to(path)
    (tmp_path / ".venv" / "installed").touch()
    port, nowhere = free_port(), "http://127.0.0.1:9"
    database = f"sqlite:///{tmp_path}/real.db"
    settings = environ(MARK=tmp_path, PORT=port, DATABASE_URL=database, HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere)
    started = time.monotonic()
    with (tmp_path / "log").open("wb") as log:
        make = subprocess.Popen(["make", "run"], cwd=tmp_path, env=settings, stdout=log, stderr=log,
                                start_new_session=True)

    def said() -> str:
        assert make.poll() is None, (tmp_path / "log").read_text()
        return (tmp_path / "log").read_text()
    eventually(lambda: "Ctrl-C stops it." in said(), 10, "the start")
    assert time.monotonic() - started < 5
    lines = [line.strip() for line in said().splitlines()]
    assert f"Chat page  http://127.0.0.1:{port}/" in lines
    assert "Model      SmolLM2-135M-Instruct, on this machine" in lines
    assert f"Data       SQLite database {tmp_path}/real.db" in lines

    ctrl_c(make.pid)
    assert make.wait(5) in (0, -signal.SIGINT)
    wait_until_none_is_left(str(tmp_path))
    assert "rror" not in (tmp_path / "log").read_text() and "Traceback" not in (tmp_path / "log").read_text()


def ask(service: Service) -> int:
    return service.client.call("POST", "/stream", json=PROMPT).status_code


def test_a_reload_keeps_the_model_a_dead_one_is_replaced_and_the_end_lets_answers_finish(
        start_real: Callable[[], Service], tmp_path: Path) -> None:
    service, mark = start_real(), str(tmp_path)
    first = the_model(mark)
    port = {connection.laddr.port for connection in first.net_connections() if connection.status == "LISTEN"}

    before = service.workers()
    os.kill(service.process.pid, signal.SIGHUP)
    eventually(lambda: len(after := service.workers()) == 2 and not set(after) & set(before), 10, "the reload")
    assert the_model(mark) == first
    assert ask(service) == 200

    first.kill()
    first.wait(5)
    meanwhile = service.client.call("POST", "/stream", json=PROMPT)
    assert meanwhile.status_code == 503 and meanwhile.json()["error_type"] == "model_restarting"
    killed = time.monotonic()
    eventually(lambda: ask(service) == 200, 5, "an answer of the new model")
    assert time.monotonic() - killed < 5
    second = the_model(mark)
    assert second != first
    assert port == {connection.laddr.port for connection in second.net_connections() if connection.status == "LISTEN"}
    assert "The model stopped (SIGKILL); starting it again." in service.log()

    with service.client.call("POST", "/stream", json=PROMPT | {"max_tokens": 120},
                             headers={"Connection": "close"}, stream=True) as answer:
        pieces = answer.iter_content(None)
        next(pieces)
        service.process.terminate()
        for _piece in pieces:  # raises where the answer is cut
            pass
    assert service.process.wait(10) == 0
    wait_until_none_is_left(mark)


def test_a_killed_master_leaves_nothing(start_real: Callable[[], Service], tmp_path: Path) -> None:
    service, mark = start_real(), str(tmp_path)
    assert len(marked(mark)) == 5  # master, two workers, supervisor, model
    service.process.kill()
    service.process.wait()
    wait_until_none_is_left(mark)


def test_a_killed_supervisor_leaves_no_model(start_real: Callable[[], Service], tmp_path: Path) -> None:
    start_real()
    supervisor = the_model(str(tmp_path)).parent()
    assert supervisor
    supervisor.kill()
    eventually(lambda: not models(str(tmp_path)), 5, "the end of the model")


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so would all that these tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_mid_start_leaves_nothing(tmp_path: Path) -> None:
    settings = environ(MARK=tmp_path, PORT=free_port(), DATABASE_URL=f"sqlite:///{tmp_path}/real.db")
    gunicorn = [sys.executable, "-m", "gunicorn"]
    master = subprocess.Popen(gunicorn, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              start_new_session=True, preexec_fn=heed_ctrl_c)
    assert master.stdout
    assert "starting the model" in master.stdout.readline()
    ctrl_c(master.pid)
    assert "Traceback" not in master.stdout.read()
    assert master.wait(5) == 130
    wait_until_none_is_left(str(tmp_path))
