"""How long processes were ready to run and had no core: what a busy machine adds to every time that is measured on it."""
import os
from contextlib import suppress


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
        """By process and thread, in ns."""
        waits = {}
        for pid in self._pids:
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with suppress(OSError):
                        waits[pid, thread] = _schedstat(pid, thread)[1]
        return waits


def hub_ran_ms(pid: int) -> float:
    """For how long the main thread of a process has run so far."""
    return _schedstat(pid, pid)[0] / 1e6


def _schedstat(pid: int, thread: int | str) -> list[int]:
    """For how many ns it ran, for how many it was ready to run and did not, and how often it ran."""
    with open(f"/proc/{pid}/task/{thread}/schedstat", "rb", buffering=0) as file:
        return [int(figure) for figure in file.read().split()]
