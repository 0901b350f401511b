"""What may come in and what goes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

BIGGEST_ID = 2**63 - 1
ENDED = ["completed", "failed", "incomplete", "cancelled"]
STATUSES = ["in_progress", *ENDED]


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


def seen(name: str) -> None:
    """Refuse a name that would show as nothing."""
    if not any(char.isprintable() and not char.isspace() for char in name):
        raise ValidationError("Must have a character that can be seen.")


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

    after = Digits(validate=validate.Range(0, BIGGEST_ID))


class LastEventSchema(Schema):
    after = Digits(data_key="Last-Event-ID", validate=validate.Range(0, BIGGEST_ID))


class PageSchema(Schema):
    limit = Digits(load_default=20, validate=validate.Range(1, 100))
    before = Digits(validate=validate.Range(1, BIGGEST_ID))


class ViewSchema(Schema):
    view = fields.String(validate=validate.OneOf(["rendered", "raw"]))


LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)  # none follows it


class Moment(fields.Field[datetime]):
    """A day in UTC, or an instant (RFC 3339). With `end` a day counts to its end."""

    def __init__(self, end: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.end = end

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        text = str(value).upper().replace(" ", "+")  # a + in a URL becomes a space
        try:
            if len(text) == 10:
                day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
                return day + timedelta(days=self.end and day < LAST_DAY)
            if text[10] != "T":
                raise ValueError
            instant = datetime.fromisoformat(text)
            if instant.tzinfo is None:
                raise ValueError
            return instant.astimezone(UTC)
        except (ValueError, IndexError, OverflowError):
            raise ValidationError("Must be a day (2026-01-31) or an instant (2026-01-31T09:30:00Z).") from None


def some(*values: str) -> fields.List:
    """One or several of a kind; without `values` any text."""
    allowed = validate.OneOf(values) if values else validate.And(storable, validate.Length(1, 200))
    return fields.List(fields.String(validate=allowed), validate=validate.Length(max=50))


class FilterSchema(Schema):
    """The parameters that every list of completions takes (docs/api.md, "Filters"). Unknown ones are refused."""

    class Meta:
        include = {"from": Moment()}  # noqa: RUF012

    to = Moment(end=True)
    status = some(*STATUSES)
    model = some()
    source = some("chat", "api")
    rating = some("good", "bad", "none")
    tag = some()
    reviewed = fields.String(validate=validate.OneOf(["yes", "no"]))
    min_duration_ms = Digits(validate=validate.Range(0, 2**31 - 1))
    max_duration_ms = Digits(validate=validate.Range(0, 2**31 - 1))
    owner = some()
    reason = some()
    conversation_id = Digits(validate=validate.Range(1, BIGGEST_ID))
    q = fields.String(validate=[storable, validate.Length(max=500)])


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
    rating = fields.String()
    reviewed_at = fields.Function(lambda completion: completion.reviewed_at and rfc3339(completion.reviewed_at))
