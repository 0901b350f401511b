"""What a script of the upstream is made of. A step is a function of the exchange; `Bytes` send a piece of the body."""
import gzip as gziplib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.exchange import Exchange, Gate, head

MODEL = "scripted-model-0001"  # the name under which it answers; the one it is asked for is whatever the service sends
Step = Callable[[Exchange], None]


@dataclass(frozen=True)
class Bytes:
    """A piece of the body, sent as one chunk."""

    data: bytes

    def __call__(self, exchange: Exchange) -> None:
        exchange.send(self.data)


def raw(data: bytes) -> Bytes:
    return Bytes(data)


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **fields: Any) -> Bytes:
    """One `chat.completion.chunk` event; `fields` replace its own (`choices=[]`, `usage={...}`, `model=...`)."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    frame = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1700000000}
    body = frame | {"model": MODEL, "choices": [choice]}
    return event(json.dumps(body | fields, ensure_ascii=False))


def event(data: str) -> Bytes:
    return Bytes(f"data: {data}\n\n".encode())


def role() -> Bytes:
    """What real servers send first: the role and an empty text."""
    return chunk({"role": "assistant", "content": ""})


def delta(text: str) -> Bytes:
    return chunk({"content": text})


def null_content() -> Bytes:
    return chunk({"content": None})


def reasoning(text: str) -> Bytes:
    return chunk({"reasoning_content": text, "content": None})


def empty_choices() -> Bytes:
    return chunk(choices=[])


def usage(input_tokens: int = 11, output_tokens: int = 7) -> Bytes:
    """The usage-only chunk that comes last when `stream_options.include_usage` asks for it."""
    counts = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return chunk(choices=[], usage=counts | {"total_tokens": input_tokens + output_tokens})


def finish(reason: str = "stop") -> Bytes:
    return chunk(finish_reason=reason)


def done() -> Bytes:
    return event("[DONE]")


def answer(*texts: str) -> list[Step]:
    """A whole well-mannered answer, one delta a text."""
    return [role(), *map(delta, texts), finish(), usage(), done()]


def typing(*texts: str, every: float) -> list[Step]:
    """A whole answer with a pause after each delta."""
    return [role(), *(step for text in texts for step in (delta(text), pause(every))), finish(), usage(), done()]


def held(gate: Gate, first: str, rest: str) -> list[Step]:
    """A whole answer that stops after its first delta until the gate opens."""
    return [delta(first), wait_for(gate), delta(rest), finish(), done()]


def error_midway(message: str = "the model fell over", **fields: Any) -> Bytes:
    return event(json.dumps({"error": {"message": message, "type": "server_error"} | fields}))


def comment(text: str = "keep-alive") -> Bytes:
    return Bytes(f": {text}\n\n".encode())


def crlf(*steps: Any) -> list[Step]:
    """The same steps with CRLF line ends."""
    return [Bytes(step.data.replace(b"\n", b"\r\n")) if isinstance(step, Bytes) else step for step in flat(steps)]


def joined(*steps: Bytes) -> Bytes:
    """The same events in one piece."""
    return Bytes(b"".join(step.data for step in steps))


def split_at(position: int, step: Bytes) -> list[Step]:
    """One event in two pieces, the second after the first has surely been read apart from it."""
    return [Bytes(step.data[:position]), pause(0.05), Bytes(step.data[position:])]


def byte_by_byte(*steps: Any) -> list[Step]:
    """The same steps with every byte in a chunk of its own."""
    pieces = (map(Bytes, _bytes(step.data)) if isinstance(step, Bytes) else [step] for step in flat(steps))
    return [piece for group in pieces for piece in group]


def drip(data: bytes, every: float) -> list[Step]:
    """One byte each `every` seconds."""
    return [step for piece in _bytes(data) for step in (Bytes(piece), pause(every))]


def headers(status: int = 200, **fields: str) -> Step:
    """Only the head of the answer, now."""
    return lambda exchange: exchange.open(status, {name.replace("_", "-"): value for name, value in fields.items()})


def pause(seconds: float) -> Step:
    return lambda exchange: exchange.wait(seconds)


def wait_for(gate: Gate) -> Step:
    return lambda exchange: exchange.wait_for(gate)


def silence() -> Step:
    """Not one byte more until the service hangs up."""
    return lambda exchange: exchange.wait()


def tell(passed: threading.Event) -> Step:
    """Let the test know that the script has come this far."""
    return lambda exchange: passed.set()


def close() -> Step:
    return lambda exchange: exchange.hang_up()


def reset() -> Step:
    return lambda exchange: exchange.hang_up(reset=True)


def status(code: int, body: Any = None, **fields: str) -> Step:
    """A whole answer that is not a stream; `fields` are headers (`Retry_After="7"`); a body is HTML or JSON."""
    if body is None:
        body = {"error": {"message": f"scripted {code}", "type": "scripted", "code": None}}
    kind = "text/html" if isinstance(body, str) else "application/json"
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}

    def send(exchange: Exchange) -> None:
        exchange.opened = exchange.ended = True
        exchange.send_raw(head(code, {"Content-Type": kind, "Content-Length": str(len(data))} | named) + data)
    return send


def context_error(message: str = "This model's maximum context length is 8192 tokens.") -> Step:
    """What OpenAI and llama.cpp's server say when the messages do not fit."""
    error = {"message": message, "type": "invalid_request_error", "code": "context_length_exceeded"}
    return status(400, {"error": error})


def html(code: int = 200) -> Step:
    return status(code, "<!doctype html><title>Sign in</title><p>Please sign in to the network.")


def redirect(to: str, code: int = 307) -> Step:
    return status(code, "", Location=to)


def wire(data: bytes) -> Step:
    """Bytes on the connection as they are, without any framing of ours; nor is a last chunk added at the end."""
    def send(exchange: Exchange) -> None:
        exchange.opened = exchange.ended = True
        exchange.send_raw(data)
    return send


def not_http(data: bytes = b"SSH-2.0-OpenSSH_9.2p1\r\n") -> Step:
    """Bytes that are no HTTP at all, then the end."""
    def send(exchange: Exchange) -> None:
        exchange.send_raw(data)
        exchange.hang_up()
    return send


def gzipped(*steps: Bytes) -> list[Step]:
    """The same events gzip-coded, though the service asked for identity."""
    return [headers(Content_Encoding="gzip"), Bytes(gziplib.compress(joined(*steps).data))]


def endless_line(piece: bytes = b"x" * 65536) -> Step:
    """A line that never ends, as fast as the service reads it."""
    def send(exchange: Exchange) -> None:
        exchange.send(b"data: ")
        while True:
            exchange.send(piece)
    return send


def endless_answer(text: str = "x" * 10_000) -> Step:
    """Deltas for ever, as fast as the service reads them."""
    def send(exchange: Exchange) -> None:
        while True:
            exchange.send(delta(text).data)
    return send


def flat(steps: Any) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, (list, tuple)):
            yield from flat(step)
        else:
            yield step


def _bytes(data: bytes) -> Iterator[bytes]:
    return (data[i:i + 1] for i in range(len(data)))
