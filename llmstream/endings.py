"""How an answer can end: the table "How an answer ends" of docs/api.md, in code. Imports nothing of ours."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """One row of the table: the stored status, the HTTP status if no text had come yet, and the reason in plain words."""

    status: str
    http: int
    reason: str


ENDINGS: dict[str, Kind] = {
    "upstream_unreachable": Kind("failed", 502, "The model's server cannot be reached."),
    "model_restarting": Kind("failed", 503, "The bundled model is starting again. Try again in a few seconds."),
    "upstream_auth": Kind("failed", 502, "The model's server refused our key. OPENAI_API_KEY needs a look."),
    "upstream_rate_limited": Kind(
        "failed", 429, "The model's server is limiting how much we may ask. Try again later."
    ),
    "context_length_exceeded": Kind("failed", 422, "This prompt does not fit into the model's context. Shorten it."),
    "upstream_error": Kind("failed", 502, "The model's server reported an error."),
    "upstream_invalid": Kind("failed", 502, "The model's server sent something that is not a stream of an answer."),
    "upstream_timeout": Kind("failed", 504, "The model's server took too long."),
    "upstream_cut": Kind("failed", 502, "The model's server broke off before the end of the answer."),
    "answer_too_long": Kind("failed", 502, "The answer grew beyond the limit (LLMSTREAM_MAX_ANSWER_BYTES)."),
    "not_started": Kind("failed", 503, "The prompt could not be stored in time, so the model was never asked."),
    "storage_rejected": Kind("failed", 500, "The database refused to store this answer."),
    "worker_lost": Kind("incomplete", 503, "The worker stopped while writing this answer."),
    "shutdown": Kind("incomplete", 503, "The service was stopped while this answer was being written."),
    "storage": Kind("incomplete", 503, "The database took no writes for too long."),
    "internal_error": Kind("incomplete", 500, "A fault in llmstream ended this answer; the log has the details."),
    "cancelled": Kind("cancelled", 409, "This answer was stopped."),
    "revoked": Kind("cancelled", 401, "The key or user that asked for this answer was shut out."),
}

FINISHED = {
    "length": "The answer reached its longest allowed length.",
    "content_filter": "The model's provider held back the rest of the answer.",
}


class Ending(NamedTuple):
    """How one answer ended, as it is stored and shown. `input_tokens` and `output_tokens` are None where nobody counted."""

    status: str
    reason: str
    error_type: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def completed(finish_reason: str | None) -> Ending:
    reason = FINISHED.get(finish_reason or "", "The model finished its answer.")
    return Ending("completed", reason, None, finish_reason)


def broken(error_type: str, detail: str = "") -> Ending:
    """An ending that is not a success; `detail` is one more plain sentence about this very case."""
    kind = ENDINGS[error_type]
    return Ending(kind.status, f"{kind.reason} {detail}".strip(), error_type)
