"""The settings: read from the environment, checked at start, and a wrong one refused in one plain sentence."""

import ipaddress
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED_MODEL = "SmolLM2-135M-Instruct"
# Set by gunicorn.conf.py for the processes below it; not for people.
INTERNAL = ("LLMSTREAM_LOCAL_MODEL_PORT", "LLMSTREAM_LOCAL_MODEL_KEY")


class ConfigError(Exception):
    """A setting is wrong. The message is one sentence that says what to do, and never shows a secret."""


class Setting(NamedTuple):
    """`read` turns the text into the value, or raises ValueError saying what it must be."""

    name: str
    default: str
    read: Callable[[str], Any]


def load(environ: Mapping[str, str]) -> dict[str, Any]:
    """All settings by name, with what follows from them: SQLALCHEMY_DATABASE_URI, BUNDLED. Raises ConfigError."""
    values = {setting.name: _read(setting, environ) for setting in SETTINGS}
    _refuse_unknown(environ)
    values["SQLALCHEMY_DATABASE_URI"] = values["DATABASE_URL"]
    values["BUNDLED"] = bundled = not values["OPENAI_BASE_URL"]
    if bundled:
        _use_bundled_model(values, environ)
    elif not values["LLMSTREAM_MODEL"]:
        raise ConfigError("LLMSTREAM_MODEL must name a model of the server in OPENAI_BASE_URL.")
    values["LLMSTREAM_CONTEXT_TOKENS"] = values["LLMSTREAM_CONTEXT_TOKENS"] or (4096 if bundled else 8192)
    values["LLMSTREAM_MODELS"] = tuple(dict.fromkeys((values["LLMSTREAM_MODEL"], *values["LLMSTREAM_MODELS"])))
    return values


def _read(setting: Setting, environ: Mapping[str, str]) -> Any:
    text = environ.get(setting.name, "").strip() or setting.default
    try:
        return setting.read(text)
    except ValueError as error:
        shown = "" if setting.name in SECRET else f", not {text!r}"
        raise ConfigError(f"{setting.name} must be {error}{shown}.") from None


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {setting.name for setting in SETTINGS}.union(INTERNAL)
    for name in environ:
        if name.startswith("LLMSTREAM_") and name not in known:
            raise ConfigError(f"{name} is not a setting; see the table of settings in README.md.")


def _use_bundled_model(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """The bundled server has one model and slots of 4096 tokens; a key for another server is no concern of it."""
    if {values["LLMSTREAM_MODEL"] or BUNDLED_MODEL, *values["LLMSTREAM_MODELS"]} != {BUNDLED_MODEL}:
        raise ConfigError(
            f"LLMSTREAM_MODEL and LLMSTREAM_MODELS can name only {BUNDLED_MODEL} while OPENAI_BASE_URL is unset; "
            "set OPENAI_BASE_URL to use another model."
        )
    if (values["LLMSTREAM_CONTEXT_TOKENS"] or 0) > 4096:
        raise ConfigError("LLMSTREAM_CONTEXT_TOKENS must be at most 4096 for the bundled model.")
    values["LLMSTREAM_MODEL"] = BUNDLED_MODEL
    values["OPENAI_BASE_URL"] = f"http://127.0.0.1:{environ.get('LLMSTREAM_LOCAL_MODEL_PORT', '0')}/v1"
    values["OPENAI_API_KEY"] = environ.get("LLMSTREAM_LOCAL_MODEL_KEY", "")


def secret_key(values: Mapping[str, Any]) -> str:
    """What signs cookies: SECRET_KEY, or a random one that is made once and kept beside the data. Raises ConfigError."""
    if values["SECRET_KEY"]:
        return str(values["SECRET_KEY"])
    path = PROJECT / "instance" / "secret_key"
    try:
        if path.exists():
            return path.read_text()
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f"secret_key.{os.getpid()}")
        draft.touch(0o600)
        draft.write_text(secrets.token_urlsafe(32))
        with suppress(FileExistsError):
            os.link(draft, path)  # whole at once, and only if there is none yet
        draft.unlink()
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"SECRET_KEY must be set, because {path} cannot be kept ({error.strerror}).") from None


def describe_database(uri: str) -> str:
    """Where the data is kept, for people: without user, password and options."""
    url = make_url(uri)
    if url.get_backend_name() == "sqlite":
        return f"SQLite database {url.database}"
    return f"PostgreSQL database {url.database} on {url.host or 'this machine'}{f':{url.port}' if url.port else ''}"


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """One of IPv4 as such, also where we listen on :: and see it as ::ffff:192.0.2.1. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on this address, or send from it."""
    try:
        return address_of("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        return False


def _address(text: str) -> str:
    host = text.strip("[]")
    try:
        return host if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError("an address such as 127.0.0.1 (this machine only) or 0.0.0.0 (all networks)") from None


def _networks(text: str) -> tuple[Any, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in _names(text))
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.7,10.1.0.0/16") from None


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.lower() for name in _names(text))
    if any(not re.fullmatch(r"[a-z0-9.-]+|\[[0-9a-f:.]+\]", name) for name in names):
        raise ValueError("names such as llm.example.com, without port and scheme, separated by commas")
    return names


def _whole(lowest: int, highest: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        if text and not (text.isascii() and text.isdigit() and len(text) < 20 and lowest <= int(text) <= highest):
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return int(text) if text else None

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise ValueError("a number of seconds above 0 and at most 86400")
    return seconds


def _database(text: str) -> str:
    """A URL for SQLAlchemy. A relative SQLite path counts from the project's directory, wherever we were started."""
    wanted = "sqlite:///<file> or postgresql://<user>:<password>@<host>/<database>, special characters %-encoded"
    try:
        url: URL = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(wanted) from None
    well_formed = url.database and "@" not in (url.host or "")  # else a part of the password is taken for the host
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg") and well_formed:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername == "sqlite" and url.database and url.database != ":memory:" and not url.query:
        return str(url.set(database=str(PROJECT / os.path.expanduser(url.database))))
    raise ValueError(wanted)


def _base_url(text: str) -> str:
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if text and not (good and text.isascii() and not set("@?# ") & set(text)):
        raise ValueError("an address such as https://api.example.com/v1, with the key in OPENAI_API_KEY")
    return text.rstrip("/")


def _key(text: str) -> str:
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("printable ASCII characters without spaces")
    return text


def _secret(text: str) -> str:
    if text and len(text) < 32:
        raise ValueError("at least 32 characters, best random ones")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


SECRET = ("SECRET_KEY", "DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")
SETTINGS = [
    Setting("HOST", "127.0.0.1", _address),
    Setting("PORT", "8000", _whole(1, 65535)),
    Setting("WEB_CONCURRENCY", "2", _whole(1, 64)),
    Setting("DATABASE_URL", f"sqlite:///{PROJECT}/instance/llmstream.db", _database),
    Setting("OPENAI_BASE_URL", "", _base_url),
    Setting("OPENAI_API_KEY", "", _key),
    Setting("LLMSTREAM_MODEL", "", str),
    Setting("LLMSTREAM_MODELS", "", _names),
    Setting("LLMSTREAM_CONTEXT_TOKENS", "", _whole(16, 10_000_000)),
    Setting("LLMSTREAM_MAX_UNSTORED_S", "5", _seconds),
    Setting("LLMSTREAM_CONNECT_TIMEOUT_S", "5", _seconds),
    Setting("LLMSTREAM_FIRST_TOKEN_TIMEOUT_S", "60", _seconds),
    Setting("LLMSTREAM_IDLE_TIMEOUT_S", "30", _seconds),
    Setting("LLMSTREAM_TOTAL_TIMEOUT_S", "600", _seconds),
    Setting("LLMSTREAM_READER_TIMEOUT_S", "15", _seconds),
    Setting("SECRET_KEY", "", _secret),
    Setting("LLMSTREAM_HOSTS", "", _hosts),
    Setting("LLMSTREAM_PROXIES", "", _networks),
    Setting("LLMSTREAM_REQUESTS_PER_MINUTE", "120", _whole(1, 1_000_000)),
    Setting("LLMSTREAM_CALLS_PER_MINUTE", "3000", _whole(1, 10_000_000)),
    Setting("LLMSTREAM_STREAMS_AT_ONCE", "50", _whole(1, 100_000)),
    Setting("LLMSTREAM_BYTES_PER_DAY", "1000000000", _whole(1, 2**50)),
    Setting("LLMSTREAM_RETENTION_DAYS", "", _whole(1, 36500)),
    Setting("LLMSTREAM_MAX_BODY_BYTES", "262144", _whole(1024, 2**30)),
    Setting("LLMSTREAM_MAX_ANSWER_BYTES", "4194304", _whole(1024, 2**30)),
]
