"""What may come in and what goes out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

BIGGEST_ID = 2**63 - 1


def storable(text: str) -> None:
    """Refuse what one of the databases, or UTF-8, cannot hold."""
    if "\0" in text:
        raise ValidationError("Must not contain the character NUL.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError("Must not contain half of a surrogate pair.") from None


def not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")


class Number(fields.Float):
    """A JSON number: neither a string that looks like one, nor NaN."""

    def _validated(self, value: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Digits(fields.Integer):
    """A whole number in a URL or header: digits and nothing else."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


def an_id() -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(1, BIGGEST_ID))


class PromptSchema(Schema):
    """The body of `POST /stream`. Unknown fields are refused."""

    class Meta:
        unknown = RAISE

    prompt = fields.String(validate=[storable, not_blank])
    conversation_id = an_id()
    regenerate = an_id()
    model = fields.String(validate=storable)
    system = fields.String(validate=storable)
    temperature = Number(validate=validate.Range(0, 2))
    max_tokens = fields.Integer(strict=True, validate=validate.Range(1, 1_000_000))

    @validates_schema
    def one_question(self, data: dict[str, Any], **_: Any) -> None:
        if "regenerate" in data:
            for name in ("prompt", "conversation_id"):
                if name in data:
                    raise ValidationError("Cannot be given together with regenerate.", name)
        elif "prompt" not in data:
            raise ValidationError("Missing data for required field.", "prompt")


class KeySchema(Schema):
    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        validate=validate.Regexp(r"[!-~]([ -~]{0,253}[!-~])?\Z", error="1 to 255 printable ASCII."),
    )


class AfterSchema(Schema):
    """Where to go on reading, in bytes."""

    class Meta:
        unknown = RAISE

    after = Digits(validate=validate.Range(0, BIGGEST_ID))


class LastEventSchema(Schema):
    after = Digits(data_key="Last-Event-ID", validate=validate.Range(0, BIGGEST_ID))


class PageSchema(Schema):
    class Meta:
        unknown = RAISE

    limit = Digits(load_default=20, validate=validate.Range(1, 100))
    before = Digits(validate=validate.Range(1, BIGGEST_ID))


class ViewSchema(Schema):
    view = fields.String(validate=validate.OneOf(["rendered", "raw"]))


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class CompletionSchema(Schema):
    """One completion as the API shows it: the names of its columns (docs/api.md, "History")."""

    id = fields.Integer()
    conversation_id = fields.Integer()
    created_at = fields.Function(lambda completion: rfc3339(completion.created_at))
    prompt = fields.String()
    response = fields.String(attribute="text")
    status = fields.String()
    reason = fields.String()
    error_type = fields.String()
    finish_reason = fields.String()
    request_model = fields.String()
    response_model = fields.String()
    system = fields.String()
    parameters = fields.Raw()
    input_tokens = fields.Integer()
    output_tokens = fields.Integer()
    dropped_turns = fields.Integer()
    time_to_first_token_ms = fields.Integer()
    duration_ms = fields.Integer()
    added_ms = fields.Float()
    delivery = fields.String()
    delivered_bytes = fields.Integer()
    regenerated_from = fields.Integer()
    source = fields.String()
    remote_addr = fields.String()
    client_name = fields.String()
    provider_name = fields.String()
    owner = fields.String()
