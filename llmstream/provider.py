"""Messages in, deltas out: the only file that knows the wire names of OpenAI's chat completions API.

Nothing that the upstream sends is trusted: every wait has a limit (`gevent.Timeout`, since that of requests never fires on a
drip), every size has a cap, and an end counts as success only if the protocol says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any, NamedTuple

import gevent
import requests
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from .endings import broken
from .sse import Event, Parser
from .wire import Body, Patience

ERROR_BYTES = 16384
ERROR_TYPES = {401: "upstream_auth", 403: "upstream_auth", 429: "upstream_rate_limited"}
CONTEXT_ERRORS = ("context_length_exceeded", "exceed_context_size", "maximum context length")


class ProviderError(Exception):
    """The upstream failed. `error_type` is a key of endings.ENDINGS, `retry_after` is in seconds if the upstream named them."""

    def __init__(self, error_type: str, detail: str = "", retry_after: int | None = None) -> None:
        super().__init__(f"{error_type}: {detail}")
        self.error_type, self.retry_after = error_type, retry_after
        self.ending = broken(error_type, detail)


class Delta(NamedTuple):
    """What one read brought. `text` may be empty: a model that only thinks is alive too."""

    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    done: bool = False


@dataclass(frozen=True)
class Upstream:
    """Where the model is, and how long it may take (seconds)."""

    base_url: str
    api_key: str
    bundled: bool
    connect_s: float
    first_token_s: float
    idle_s: float
    total_s: float

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Upstream:
        limits = [config[f"LLMSTREAM_{name}_TIMEOUT_S"] for name in ("CONNECT", "FIRST_TOKEN", "IDLE", "TOTAL")]
        return cls(config["OPENAI_BASE_URL"], config["OPENAI_API_KEY"], config["BUNDLED"], *limits)

    @property
    def name(self) -> str:
        return "bundled" if self.bundled else self.base_url.split("/")[2]


def stream(
    session: requests.Session, upstream: Upstream, model: str, messages: list[dict[str, str]], parameters: dict[str, Any]
) -> Iterator[Delta]:
    """Ask the model and give what arrives as it arrives. Raises ProviderError. Closing the iterator hangs up."""
    patience = Patience(upstream.first_token_s, upstream.idle_s, upstream.total_s)
    body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, **parameters}
    try:
        with patience.limit(), translated(patience):
            response = post(session, upstream, body)
    except ProviderError as error:
        if upstream.bundled and error.error_type in ("upstream_unreachable", "upstream_cut"):
            raise ProviderError("model_restarting") from error
        raise
    try:
        with patience.limit(), translated(patience):
            check(response, upstream)
        yield from read(response, upstream, patience)
    finally:
        response.close()


@contextmanager
def translated(patience: Patience) -> Iterator[None]:
    """Whatever requests and urllib3 raise, as a ProviderError."""
    try:
        yield
    except (TimeoutError, gevent.Timeout) as error:
        raise ProviderError("upstream_timeout", patience.reason) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        inner = error.args[0] if error.args else None
        if isinstance(inner, MaxRetryError):
            raise ProviderError("upstream_unreachable") from error
        cause = inner.args[-1] if isinstance(inner, ProtocolError) else None
        garbled = isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected)
        raise ProviderError("upstream_invalid" if garbled else "upstream_cut") from error
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        raise ProviderError("upstream_cut") from error


def post(session: requests.Session, upstream: Upstream, body: dict[str, Any]) -> requests.Response:
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if upstream.api_key:
        headers["Authorization"] = f"Bearer {upstream.api_key}"
    url, timeout = f"{upstream.base_url}/chat/completions", (upstream.connect_s, None)
    return session.post(url, json=body, headers=headers, stream=True, allow_redirects=False, timeout=timeout)


def check(response: requests.Response, upstream: Upstream) -> None:
    """Raise ProviderError unless this is the beginning of an event stream."""
    if response.status_code == 200:
        plain = response.headers.get("Content-Encoding", "identity") == "identity"
        if not plain or not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise ProviderError("upstream_invalid")
        return
    if response.status_code < 400:
        raise ProviderError("upstream_invalid", f"It answered with HTTP status {response.status_code}.")
    if upstream.bundled and response.status_code == 503:
        raise ProviderError("model_restarting")
    said = response.raw.read(ERROR_BYTES).decode("utf-8", "replace")
    if any(words in said for words in CONTEXT_ERRORS):
        raise ProviderError("context_length_exceeded")
    seconds = response.headers.get("Retry-After", "")
    retry_after = min(int(seconds), 3600) if seconds.isascii() and seconds.isdecimal() else None
    error_type = ERROR_TYPES.get(response.status_code, "upstream_error")
    detail = f"It answered with HTTP status {response.status_code}{message_of(said, upstream.api_key)}."
    raise ProviderError(error_type, "" if error_type == "upstream_auth" else detail, retry_after)


def read(response: requests.Response, upstream: Upstream, patience: Patience) -> Iterator[Delta]:
    parser, body = Parser(), Body(response)
    while True:
        try:
            events = receive(body, parser, patience)
        except ProviderError:
            if patience.finished:  # the model had finished; only what follows is missing
                return
            raise
        delta, error = merge(events, upstream)
        if delta:
            patience.renew(delta.finish_reason is not None)
            yield delta
            patience.renew(False)  # whoever took it may have waited for the database meanwhile
            if delta.done:
                return
        if error and not patience.finished:
            raise error


def receive(body: Body, parser: Parser, patience: Patience) -> list[Event]:
    """The events that are complete with the next read. Raises ProviderError, also where the body ends."""
    try:
        parser.check()
        received = body.read(patience.seconds())
        if received is None:
            raise ProviderError("upstream_cut")
        return parser.feed(received)
    except TimeoutError as error:
        raise ProviderError("upstream_timeout", patience.reason) from error
    except OSError as error:
        raise ProviderError("upstream_cut") from error
    except ValueError as error:  # Malformed, TooLong
        raise ProviderError("upstream_invalid") from error


def merge(events: list[Event], upstream: Upstream) -> tuple[Delta | None, ProviderError | None]:
    """All events of one read as one delta, None if nothing in them is a sign of life; and the error that came behind it."""
    text: list[str] = []
    found: dict[str, Any] = {}
    failure = None
    for event in events:
        if event.data == "[DONE]":
            return Delta("".join(text), **{**found, "done": True}), None
        try:
            chunk = parse(event.data, upstream)
        except ProviderError as error:
            failure = error
            break
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue  # we asked for one answer
            found["finish_reason"] = clean(choice.get("finish_reason") or "")[:200] or found.get("finish_reason")
            text.append(clean((choice.get("delta") or {}).get("content") or ""))
        if usage := chunk.get("usage"):
            found |= {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
        if model := chunk.get("model"):
            found["model"] = clean(model)[:200]
    return (Delta("".join(text), **found) if text or "input_tokens" in found else None), failure


def parse(data: str, upstream: Upstream) -> dict[str, Any]:
    """One chunk of the protocol, of the shape that `merge` reads. Raises ProviderError for anything else."""
    try:
        chunk = json.loads(data)
        if chunk.get("error"):
            raise ProviderError("upstream_error", f"It said{message_of(data, upstream.api_key)}.")
        for choice in chunk.get("choices") or []:
            words = (choice.get("finish_reason"), (choice.get("delta") or {}).get("content"), chunk.get("model"))
            if not all(word is None or isinstance(word, str) for word in words):
                raise TypeError
        counts = [(chunk.get("usage") or {}).get(name) for name in ("prompt_tokens", "completion_tokens")]
        if not all(count is None or (isinstance(count, int) and 0 <= count < 2**31) for count in counts):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ProviderError("upstream_invalid") from error
    return chunk


def message_of(said: str, secret: str) -> str:
    """The upstream's own words, for the reason: short, on one line, and without our key."""
    try:
        error = json.loads(said)["error"]
        words = error if isinstance(error, str) else error["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    words = " ".join(clean(str(words)).split())
    return ": " + (words.replace(secret, "***") if secret else words)[:200].rstrip(".")


def clean(text: str) -> str:
    """Text that both databases can hold: NUL and lone surrogates become U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd")
