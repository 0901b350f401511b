"""How long processes were ready to run and had no core: what a busy machine adds to every time that is measured on it."""
import os
from contextlib import suppress
from pathlib import Path


class Starvation:
    """Counts from now on, for these processes and our own. On a machine with nothing else to do it stays near 0."""

    def __init__(self, *pids: int) -> None:
        self._pids = (*pids, os.getpid())
        self._before = self._waits()

    def seconds(self) -> float:
        """What they may have waited for cores one after the other: the sum of each one's worst thread."""
        now = self._waits()
        return sum(max((wait - self._before.get(thread, 0) for thread, wait in now.items() if thread[0] == pid), default=0)
                   for pid in self._pids) / 1e9

    def _waits(self) -> dict[tuple[int, str], int]:
        """By process and thread, in ns: the second figure of /proc/<pid>/task/<tid>/schedstat."""
        waits = {}
        for pid in self._pids:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with suppress(OSError):
                        waits[pid, task.name] = int((task / "schedstat").read_text().split()[1])
        return waits
