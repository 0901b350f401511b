"""python -m tests.faults [--seed N] [--only NAME,...] [--database sqlite,postgresql] [--long]

Runs the faults, prints a line for each, then the table; exits with 1 if a promise was broken. A failure's round is found again
with the same seed.
"""
import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults import backup, clients, databases, kills, model, power, returns, soak
from tests.faults.harness import Missing, NotApplicable, Result, Run, Scenario

SCENARIOS: list[Scenario] = [
    databases.database_held, kills.worker_killed, kills.zombie, databases.poisoned_row, kills.deploy, databases.disk_full,
    databases.postgresql_stopped, databases.uncertain_commit,
    power.power_cut, clients.leaves, returns.comes_back, returns.retry_storm, returns.stop, returns.two_instances,
    model.model_killed, backup.backup, soak.soak]
KINDS = ("sqlite", "postgresql")
COLUMNS = ("fault", "database", "rounds", "clean", "cut", "wrong", "missing", "loss ms", "recovery s", "notes")


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever was started ends with us
    chosen = [s for s in SCENARIOS if not options.only or s.__name__ in options.only.split(",")]
    results: list[tuple[str, Result]] = []
    print(f"seed {options.seed}", flush=True)
    for scenario in chosen:
        for kind in options.database.split(","):
            began = time.monotonic()
            try:
                result = once(scenario, options.seed, kind, options.long)
            except NotApplicable:
                continue
            except Missing as missing:
                print(f"{scenario.__name__} on {kind} is left out: {missing}", flush=True)
                continue
            results.append((kind, result))
            print(" | ".join(line(kind, result)) + f" ({time.monotonic() - began:.0f} s)", flush=True)
            for breach in result.breaches[:20]:
                print(f"    {breach}", flush=True)
    print("\n" + table(results))
    return 1 if any(result.breaches for _, result in results) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break things, then see that nothing is lost.")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(s.__name__ for s in SCENARIOS))
    parser.add_argument("--database", default=",".join(KINDS))
    parser.add_argument("--long", action="store_true", help="the long pass: two and a half hours")
    return parser.parse_args()


def once(scenario: Scenario, seed: int, kind: str, long: bool) -> Result:
    """One scenario on one database. Raises NotApplicable, and Missing where this machine lacks something."""
    name = scenario.__name__
    with tempfile.TemporaryDirectory(prefix=f"faults-{name}-") as folder:
        try:
            with Run(seed, long, kind, Path(folder)) as run:
                return scenario(run)
        except (NotApplicable, Missing):
            raise
        except Exception:
            return Result(name, breaches=[traceback.format_exc()])


def line(kind: str, result: Result) -> tuple[str, ...]:
    loss = "-" if result.worst_loss_ms is None else f"{result.worst_loss_ms:.0f}"
    recovery = "-" if result.recovery_s is None else f"{result.recovery_s:.1f}"
    counts = (result.rounds, result.clean, result.cut, result.wrong, result.missing)
    return (result.fault, kind, *map(str, counts), loss, recovery, result.remarks())


def table(results: list[tuple[str, Result]]) -> str:
    """The results as a table in Markdown, as it stands in docs/reliability.md."""
    rows = [COLUMNS, *(line(kind, result) for kind, result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
