"""An answer as the body of a response: as text or as events, and how each shows that it is not whole."""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from . import sse
from .endings import Ending, broken
from .errors import NoAnswer
from .recorder import Recorder
from .transcript import Transcript

STREAM_HEADERS = {"Vary": "Accept", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
Pieces = Generator[bytes, None, Ending]  # what generation.tail gives; b"" is a sign of life


class Cut(ConnectionResetError):
    """Ends a response without its last chunk, so that no client takes it for whole. gunicorn closes the connection on it."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the answer is not whole")


class Revoked(Cut):
    """The credential of this request was revoked meanwhile."""


def text(pieces: Pieces, transcript: Transcript) -> Iterator[bytes]:
    """The text, from the moment there is some. Raises NoAnswer where the answer ends badly before."""
    try:
        while not (first := next(pieces)):
            pass
    except StopIteration as end:
        if end.value.status != "completed":
            raise NoAnswer(transcript, end.value) from None
        return iter(())
    except Revoked:
        raise
    except Cut as cut:
        return raising(cut)
    return from_first(first, pieces)


def raising(error: Exception) -> Iterator[bytes]:
    raise error
    yield


def from_first(first: bytes, pieces: Pieces) -> Iterator[bytes]:
    with closing(pieces):
        yield first
        ending = yield from pieces
    if ending.status != "completed":
        raise Cut


def events(pieces: Pieces, transcript: Transcript, at: int) -> Iterator[bytes]:
    """The events of docs/api.md; the id of a delta is the byte offset after it."""
    model = transcript.row["request_model"]
    ids = {"completion_id": transcript.id, "conversation_id": transcript.conversation_id}
    yield sse.encode("created", compact({**ids, "model": model}))
    with closing(pieces):
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                ending: Ending = end.value
                break
            at += len(piece)
            yield sse.encode("delta", compact({"text": piece.decode()}), at) if piece else sse.PING
    known = ending._asdict()
    usage = {name: known.pop(name) for name in ("input_tokens", "output_tokens")}
    yield sse.encode(ending.status, compact({**known, "usage": usage}))


def compact(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def whole(body: Iterable[bytes], transcript: Transcript) -> bytes:
    """For HTTP/1.0, which cannot tell a cut from the end: everything at the end, or an error."""
    try:
        return b"".join(body)
    except Cut:
        raise NoAnswer(transcript, transcript.ended or broken("storage")) from None


def noted(pieces: Pieces, transcript: Transcript, recorder: Recorder) -> Pieces:
    """Pass the pieces on; note in the row what reached the client who asked, and how long we held a piece at most."""
    sent, added_s, delivery = 0, 0.0, "left"
    try:
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                delivery = "complete" if end.value.status == "completed" else "cut"
                return end.value
            except Revoked:  # we let go of the client, and not it of us
                delivery = "cut"
                raise
            arrived = transcript.arrived
            yield piece
            if piece:  # we are asked for the next one: the connection has taken this one
                sent, added_s = sent + len(piece), max(added_s, time.monotonic() - arrived)
    finally:
        added_ms = round(added_s * 1000, 1) if sent else None
        recorder.note(transcript.id or 0, delivered_bytes=sent, delivery=delivery, added_ms=added_ms)


def while_there(pieces: Pieces, connection: socket.socket | None) -> Pieces:
    """Pass the pieces on. Raises Cut where the client is gone and no text comes whose sending would tell.

    A client that has closed its direction may still wait; so it is let go at the second pause in a row, not at once.
    """
    pauses = 0
    with closing(pieces):
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                return end.value
            pauses = pauses + 1 if not piece and has_hung_up(connection) else 0
            if pauses == 2:
                raise Cut
            yield piece


def has_hung_up(connection: socket.socket | None) -> bool:
    """Whether the client has closed its direction. Raises Cut where the connection is broken."""
    if connection is None:
        return False
    patience = connection.gettimeout()
    connection.settimeout(0)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Cut from error
    finally:
        connection.settimeout(patience)
