"""A disk that forgets: what strace saw a service do to its files, and what a power cut at any moment may leave of it.

Only what was synced before the cut is sure to be there. Of the rest each write is kept, dropped or torn at a sector, each by
itself, and of the changes to the directory the first few are kept, however many.
"""
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
CALLS = "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2"
LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")
ENDED = re.compile(r"(.*)\) += (-?\d+)(?:<[^>]*>)?.* <(\d+\.\d+)>$")
HEX = re.compile(r"((?:\\x[0-9a-f]{2})+)")


def traced(log: Path) -> list[str]:
    """What to put before a command so that this log tells `Disk` what it did."""
    return ["strace", "-D", "-f", "-y", "-xx", "-s", "100000", "-ttt", "-T", "--seccomp-bpf", "-e", f"trace={CALLS}",
            "-e", "signal=none", "-o", str(log)]


class Act(NamedTuple):
    """One call. Times are seconds since the epoch."""

    began: float
    ended: float
    call: str
    path: str
    at: int = 0  # offset of a write, size of a truncation
    data: bytes = b""


def acts(log: Path, folder: Path) -> list[Act]:
    """All that was done to files in `folder` and to itself, in the order of their beginnings."""
    begun: dict[tuple[str, str], tuple[int, float, str]] = {}
    found: dict[int, Act] = {}
    with log.open() as lines:
        for number, line in enumerate(lines):
            if not (parts := LINE.match(line)):
                continue
            pid, time, call, rest = parts.groups()
            if rest.endswith("<unfinished ...>"):
                begun[pid, call] = number, float(time), rest.removesuffix("<unfinished ...>")
                continue
            first, began, start = begun.pop((pid, call), (number, float(time), ""))
            if (ended := ENDED.match(start + rest)) and int(ended[2]) >= 0:
                act = _act(call, ended[1], int(ended[2]), began, began + float(ended[3]), folder)
                found |= {first: act} if act else {}
    return [found[number] for number in sorted(found)]


def _act(call: str, arguments: str, result: int, began: float, ended: float, folder: Path) -> Act | None:
    strings = [bytes.fromhex(text.replace("\\x", "")) for text in HEX.findall(arguments)]
    if call in ("openat", "unlinkat", "unlink"):
        path = strings[-1].decode(errors="replace")
        if call == "openat" and "O_CREAT" not in arguments:
            return None
    else:
        path = strings[0].decode(errors="replace") if strings else ""
    if path != str(folder) and Path(path).parent != folder:
        return None
    assert call in ("openat", "unlink", "unlinkat", "pwrite64", "ftruncate", "fsync", "fdatasync"), f"{call} of {path}"
    if call == "pwrite64":
        assert len(strings[1]) == result, f"a write of {result} bytes is traced with {len(strings[1])}"
        return Act(began, ended, call, path, int(arguments.rpartition(", ")[2]), strings[1])
    return Act(began, ended, call, path, int(arguments.rpartition(", ")[2]) if call == "ftruncate" else 0)


@dataclass
class File:
    """What is surely there, and what is not sure yet, in its order."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Act] = field(default_factory=list)


class Disk:
    """The folder at a moment that only moves forward."""

    def __init__(self, log: Path, folder: Path) -> None:
        self.folder = folder
        self.acts = acts(log, folder)
        ends = [(act.ended, 1, act) for act in self.acts if "sync" in act.call]
        self._coming = sorted([(act.began, 0, act) for act in self.acts if "sync" not in act.call] + ends, key=lambda e: e[:2])
        self._next = 0
        self._open: dict[str, File] = {}  # as the processes see it
        self._names: dict[str, File] = {}  # what is surely in the directory
        self._changes: list[tuple[float, str, File | None]] = []  # to the directory, not synced yet; None: unlinked
        self.forgetful = False  # a disk that says it has synced, and has not: to see that this would show

    def go_to(self, moment: float) -> None:
        """All that began before this moment has happened; what was synced is what a sync had returned for."""
        while self._next < len(self._coming) and self._coming[self._next][0] <= moment:
            self._happen(self._coming[self._next][2])
            self._next += 1

    def _happen(self, act: Act) -> None:
        if act.call == "openat":
            if act.path not in self._open:
                self._open[act.path] = File()
                self._changes.append((act.ended, act.path, self._open[act.path]))
        elif act.call.startswith("unlink"):
            self._open.pop(act.path, None)
            self._changes.append((act.ended, act.path, None))
        elif "sync" not in act.call:
            self._open[act.path].pending.append(act)
        elif not self.forgetful:
            self._sync(act)

    def _sync(self, act: Act) -> None:
        if act.path == str(self.folder):
            sure = [change for change in self._changes if change[0] <= act.began]
            self._changes = self._changes[len(sure):]
            _link(self._names, sure)
        elif file := self._open.get(act.path):
            for write in [write for write in file.pending if write.ended <= act.began]:
                _apply(file.durable, write)
                file.pending.remove(write)

    def cut(self, chance: random.Random, into: Path) -> None:
        """Write what a power cut at this moment leaves, the shared memory (-shm) aside, which it always wipes."""
        names = dict(self._names)
        _link(names, self._changes[:chance.randint(0, len(self._changes))])
        for path, file in names.items():
            content = bytearray(file.durable)
            for write in file.pending:
                for part in _survives(write, chance):
                    _apply(content, part)
            if not path.endswith("-shm"):
                (into / os.path.basename(path)).write_bytes(content)


def _link(names: dict[str, File], changes: list[tuple[float, str, File | None]]) -> None:
    for _, path, file in changes:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _survives(write: Act, chance: random.Random) -> Iterator[Act]:
    """All of it, nothing, or some of its sectors."""
    fate = chance.choice(("kept", "dropped", "torn"))
    if fate == "kept" or (fate == "torn" and write.call == "ftruncate" and chance.random() < 0.5):
        yield write
    elif fate == "torn" and write.call == "pwrite64":
        start = write.at
        while start < write.at + len(write.data):
            end = min(start // SECTOR * SECTOR + SECTOR, write.at + len(write.data))
            if chance.random() < 0.5:
                yield write._replace(at=start, data=write.data[start - write.at:end - write.at])
            start = end


def _apply(content: bytearray, act: Act) -> None:
    if act.call == "ftruncate":
        del content[act.at:]
        content.extend(bytes(act.at - len(content)))
    else:
        content.extend(bytes(max(0, act.at - len(content))))
        content[act.at:act.at + len(act.data)] = act.data
