"""SQLite's backup while the service runs: the documented command, and a service that is started on the copy."""
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pysqlite3

from tests.client import eventually
from tests.faults.harness import NotApplicable, Result, Run, all_over
from tests.faults.numbered import prompt
from tests.faults.observer import observe
from tests.faults.oracle import Seen, check
from tests.faults.pair import quit_at_once
from tests.service import ROOT, Database, Service

CLIENTS = 8


def backup(run: Run) -> Result:
    """Copy the database under load, again and again. Each copy is sound, and has all that was told before it began."""
    if run.kind != "sqlite":
        raise NotApplicable  # pg_dump does it
    result, told, over = Result("backup"), list[Seen](), threading.Event()
    service = run.start(WEB_CONCURRENCY=run.pick(1, 2))

    def ask(number: int) -> None:
        while not over.is_set():
            seen = Seen(prompt(10, 20), events=bool(number % 2))
            observe(seen, service.url)
            told.append(seen)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, number) for number in range(CLIENTS)]
        eventually(lambda: len(told) > CLIENTS, 30, "the first answers")
        for number in range(run.pick(1, 30)):
            before, copy = list(told), run.folder / f"copy{number}.db"
            said = make_backup(service, copy)
            result.expect(said.returncode == 0 and copy.exists(), f"the command failed: {said.stdout} {said.stderr}")
            is_sound(result, copy, before)
            result.rounds = number + 1
        over.set()
        for client in asking:
            client.result()
    result.add(check(service, told))
    if run.long:
        refused = make_backup(service, copy)
        result.expect(refused.returncode == 1 and "already" in refused.stderr, f"it writes over a file: {refused}")
    quit_at_once(service)
    restore(run, result, Database(f"sqlite:///{copy}"), before)
    return result


def make_backup(service: Service, file: os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """What `make backup TO=file` runs."""
    assert service.database
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "backup", str(file)]
    environ = os.environ | {"DATABASE_URL": service.database.url}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)


def is_sound(result: Result, copy: os.PathLike[str], told: list[Seen]) -> None:
    with closing(pysqlite3.connect(str(copy))) as connection:
        checked = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        result.expect(checked == ["ok"], f"the copy is corrupt: {checked}")
        rows = dict(connection.execute("SELECT id, response FROM completions WHERE status = 'completed'").fetchall())
    for seen in told:
        if rows.get(seen.completion_id) != seen.text:
            result.missing += 1
            result.breaches.append(f"completion {seen.completion_id} had ended before the copy began, and is not in it whole")


def restore(run: Run, result: Result, copy: Database, told: list[Seen]) -> None:
    """The service starts on the copy, ends what was being written when it was made, and goes on."""
    service = run.start(copy, WEB_CONCURRENCY=run.pick(1, 2))
    if run.long:  # it takes some seconds to be sure that the workers of the old service are gone
        result.recovered(all_over(copy))
    for seen in told[-20:]:
        row = service.client.history(seen.completion_id)
        result.expect(row["response"] == seen.text, f"completion {seen.completion_id} is not what it was")
    result.expect(service.client.stream_text("Hello").text() == "Hello from the scripted model.", "no answer on the copy")
    quit_at_once(service)
