"""The power is cut: what clients had been told by then is on the disk, whole, wherever in a write it happened."""
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pysqlite3

from tests.faults.disk import Disk, traced
from tests.faults.harness import Missing, NotApplicable, Result, Run, all_over
from tests.faults.numbered import prompt, whole
from tests.faults.observer import observe
from tests.faults.oracle import Seen
from tests.faults.pair import quit_at_once
from tests.service import Database

CONTROLS = 5
CLIENTS = 12
FRAME_BYTES = 16_700  # of the trace, for each page that is written


def power_cut(run: Run) -> Result:
    """Replay all that a service under load did to its SQLite files, up to random moments, and read what is left."""
    if run.kind != "sqlite":
        raise NotApplicable  # PostgreSQL keeps its own promise, if `fsync` and the disk are as they should be
    if not shutil.which("strace"):
        raise Missing("strace is not installed (on Debian and Ubuntu: apt install strace)")
    result = Result("power cut")
    folder = run.folder / "database"
    folder.mkdir()
    seens, clock, log = traced_load(run, folder)
    asked_at = min(seen.asked_at for seen in seens) + clock
    told = sorted(seen.ended_at + clock for seen in seens if seen.succeeded)
    disk = Disk(log, folder)
    moments = [act.began for act in disk.acts if act.began > asked_at]
    cuts = run.pick(20, 400)
    chosen = [run.random.choice((moments, told)[i % 2]) for i in range(cuts)]  # half of them just when a client was told
    looked_for = 0
    for number, moment in enumerate(sorted(chosen)):
        disk.go_to(moment)
        left = emptied(run.folder / "left")
        disk.cut(run.random, left)
        told_by_then, lost = examine(result, left, seens, moment - clock)
        looked_for += told_by_then
        result.missing += lost
        if run.long and number % 40 == 0:
            starts_again(run, result, left)
    result.rounds, result.clean = cuts, len(told)
    control(run, result, log, folder, seens, clock, asked_at)
    result.notes = f"{looked_for:,} answers looked for after all cuts, {len(moments):,} writes and syncs" + result.notes
    checkpointed = any(act.call == "pwrite64" and act.path.endswith(".db") and act.began > asked_at for act in disk.acts)
    result.expect(checkpointed, "the trace is too short: there was no checkpoint in it")
    return result


def traced_load(run: Run, folder: Path) -> tuple[list[Seen], float, Path]:
    """What clients saw, what to add to their clock (monotonic) to get that of the trace, and the trace."""
    log, seens, size = run.folder / "trace", list[Seen](), run.pick(1000, 20_000) * FRAME_BYTES
    service = run.start(run.new_database(folder), under=traced(log))
    (file,) = folder.glob("*.db")
    written_at = file.stat().st_mtime_ns
    clocks = [time.time() - time.monotonic()]

    def ask(number: int) -> None:
        while log.stat().st_size < size or file.stat().st_mtime_ns == written_at:  # at the least to a checkpoint
            seens.append(Seen(prompt(8, 20), events=bool(number % 2)))
            observe(seens[-1], service.url)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for client in [pool.submit(ask, number) for number in range(CLIENTS)]:
            client.result()
    clocks.append(time.time() - time.monotonic())
    quit_at_once(service)
    return seens, max(clocks) + 0.001, log


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def examine(result: Result, left: Path, seens: list[Seen], moment: float) -> tuple[int, int]:
    """Compare what is left with what clients had been told by then. How many had a clean end, and how many of these are lost."""
    told = [seen for seen in seens if seen.succeeded and seen.ended_at <= moment]
    accepted = [seen for seen in seens if seen.accepted and (seen.opened_at or moment) < moment]
    try:
        rows, chunks = read(left)
    except (pysqlite3.DatabaseError, AssertionError) as error:
        result.wrong += 1
        result.breaches.append(f"what is left is corrupt: {error}")
        return len(told), len(told)
    lost = [seen for seen in told if rows.get(seen.completion_id, {}).get("response") != whole(seen.prompt)
            or rows[seen.completion_id]["status"] != "completed"]
    for seen in lost:
        result.breaches.append(f"completion {seen.completion_id} ended cleanly {moment - seen.ended_at:.3f} s before the cut, "
                               f"and is {rows.get(seen.completion_id)}")
    for seen in accepted:
        result.expect(seen.completion_id in rows, f"completion {seen.completion_id} was accepted and has no row")
    for completion_id, row in rows.items():
        text = chunks.get(completion_id, "") if row["status"] == "in_progress" else row["response"]
        expected = whole(row["prompt"])
        if not expected.startswith(text) or (row["status"] == "completed" and text != expected):
            result.wrong += 1
            result.breaches.append(f"completion {completion_id} ({row['status']}) has another text")
    return len(told), len(lost)


def read(left: Path) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """All rows and the texts of chunks, by id. Raises where the database is not sound."""
    (path,) = left.glob("*.db")
    with closing(pysqlite3.connect(str(path))) as connection:
        checked = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        assert checked == ["ok"], checked
        assert not connection.execute("PRAGMA foreign_key_check").fetchall(), "a reference to a row that is not there"
        found = connection.execute("SELECT id, status, prompt, response FROM completions").fetchall()
        rows = {row[0]: dict(zip(("status", "prompt", "response"), row[1:], strict=True)) for row in found}
        chunks: dict[int, str] = {}
        for completion_id, start, text in connection.execute("SELECT completion_id, start, text FROM chunks ORDER BY 1, 2"):
            so_far = chunks.get(completion_id, "")
            assert len(so_far.encode()) == start, f"a hole in the text of {completion_id}"
            chunks[completion_id] = so_far + text
    return rows, chunks


def starts_again(run: Run, result: Result, left: Path) -> None:
    """The service starts on what is left, and ends what was being written."""
    (path,) = left.glob("*.db")
    service = run.start(Database(f"sqlite:///{path}"))
    assert service.database
    result.recovered(all_over(service.database))
    quit_at_once(service)


def control(run: Run, result: Result, log: Path, folder: Path, seens: list[Seen], clock: float, asked_at: float) -> None:
    """The same on a disk whose syncs do nothing: were that not seen, then neither would be a fault of ours."""
    found, told = Result("control"), sorted(seen.ended_at + clock for seen in seens if seen.succeeded)
    disk = Disk(log, folder)
    disk.go_to(asked_at)
    disk.forgetful = True
    for moment in sorted(run.random.choices(told, k=CONTROLS)):
        disk.go_to(moment)
        left = emptied(run.folder / "left")
        disk.cut(run.random, left)
        before = len(found.breaches)
        examine(found, left, seens, moment - clock)
        found.rounds += len(found.breaches) > before
    result.expect(found.rounds == CONTROLS, f"a disk that forgets was seen in {found.rounds} of {CONTROLS} cuts only")
    result.notes += f"; a disk that forgets was found out {found.rounds} times of {CONTROLS}"
