"""Settings: what is wrong is refused in one sentence that says what to do, and all of them stand in the README."""
import re

import pytest

from llmstream.config import INTERNAL, PROJECT, SETTINGS, ConfigError, describe_database, load

OTHER = {"OPENAI_BASE_URL": "https://models.example.com/v1/", "LLMSTREAM_MODEL": "big"}


@pytest.mark.parametrize("name, value, says", [
    ("HOST", "example.com", "an address"),
    ("HOST", "0.0.0.0:80", "an address"),
    ("LLMSTREAM_PROXIES", "10.0.0.300", "addresses or networks"),
    ("LLMSTREAM_HOSTS", "https://llm.example.com", "without port and scheme"),
    ("LLMSTREAM_STREAMS_AT_ONCE", "0", "a whole number"),
    ("SECRET_KEY", "too short", "at least 32 characters"),
    ("PORT", "0", "1 to 65535"),
    ("PORT", "65536", "1 to 65535"),
    ("PORT", "http", "a whole number"),
    ("PORT", "8" * 5000, "a whole number"),
    ("PORT", "\uff18\uff10", "a whole number"),
    ("WEB_CONCURRENCY", "-1", "a whole number"),
    ("DATABASE_URL", "sqlite://", "sqlite:///<file>"),
    ("DATABASE_URL", "sqlite:///:memory:", "sqlite:///<file>"),
    ("DATABASE_URL", "mysql://host/name", "postgresql://"),
    ("DATABASE_URL", "postgresql://host", "<database>"),
    ("DATABASE_URL", "postgresql://host:port/name", "postgresql://"),
    ("OPENAI_BASE_URL", "models.example.com", "https://"),
    ("OPENAI_BASE_URL", "ftp://models.example.com", "https://"),
    ("OPENAI_BASE_URL", "http://[::1/v1", "https://"),
    ("OPENAI_API_KEY", "two\nlines", "printable ASCII"),
    ("LLMSTREAM_MODEL", "another", "set OPENAI_BASE_URL"),
    ("LLMSTREAM_MODELS", "another", "set OPENAI_BASE_URL"),
    ("LLMSTREAM_CONTEXT_TOKENS", "9000", "at most 4096"),
    ("LLMSTREAM_IDLE_TIMEOUT_S", "0", "above 0"),
    ("LLMSTREAM_IDLE_TIMEOUT_S", "nan", "a number of seconds"),
    ("LLMSTREAM_IDLE_TIMEOUT_S", "inf", "a number of seconds"),
    ("LLMSTREAM_MAX_BODY_BYTES", "1e6", "a whole number"),
    ("LLMSTREAM_MODLE", "typing error", "is not a setting"),
])
def test_a_wrong_value_is_refused_in_one_sentence(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({name: value})
    sentence = str(refused.value)
    assert name in sentence and says in sentence and sentence.endswith(".") and "\n" not in sentence


def test_another_server_needs_the_name_of_a_model() -> None:
    with pytest.raises(ConfigError, match="LLMSTREAM_MODEL must name a model"):
        load({"OPENAI_BASE_URL": OTHER["OPENAI_BASE_URL"]})


@pytest.mark.parametrize("name, value", [
    ("DATABASE_URL", "mysql://anna:pa55word@host/name"),
    ("DATABASE_URL", "postgresql://anna:sharp@pa55word@host/name"),
    ("OPENAI_BASE_URL", "https://anna:pa55word@models.example.com/v1"),
    ("OPENAI_API_KEY", "pa55word with spaces"),
    ("SECRET_KEY", "pa55word"),
])
def test_a_secret_is_never_shown(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({name: value})
    assert "pa55word" not in str(refused.value)


def test_a_database_is_described_without_its_password() -> None:
    uri = load({"DATABASE_URL": "postgres://anna:pa55word@db.example.com:5433/llm?sslmode=require"})["DATABASE_URL"]
    assert uri == "postgresql+psycopg://anna:pa55word@db.example.com:5433/llm?sslmode=require"
    assert describe_database(uri) == "PostgreSQL database llm on db.example.com:5433"


def test_without_settings_the_bundled_model_and_sqlite_are_used() -> None:
    values = load({"OPENAI_API_KEY": "of-another-server", "PORT": " ", "LLMSTREAM_LOCAL_MODEL_PORT": "4321"})
    assert values["BUNDLED"] and values["LLMSTREAM_MODELS"] == ("SmolLM2-135M-Instruct",)
    assert values["OPENAI_BASE_URL"] == "http://127.0.0.1:4321/v1" and values["OPENAI_API_KEY"] == ""
    assert values["PORT"] == 8000 and values["LLMSTREAM_CONTEXT_TOKENS"] == 4096
    assert describe_database(values["DATABASE_URL"]) == f"SQLite database {PROJECT}/instance/llmstream.db"


def test_another_server_has_its_own_models() -> None:
    values = load(OTHER | {"LLMSTREAM_MODELS": "small, big,"})
    assert not values["BUNDLED"] and values["LLMSTREAM_MODELS"] == ("big", "small")
    assert values["OPENAI_BASE_URL"] == "https://models.example.com/v1" and values["LLMSTREAM_CONTEXT_TOKENS"] == 8192


def test_a_relative_sqlite_path_counts_from_the_project() -> None:
    assert load({"DATABASE_URL": "sqlite:///my data/a.db"})["DATABASE_URL"] == f"sqlite:///{PROJECT}/my data/a.db"


def test_the_readme_lists_every_setting_and_its_default() -> None:
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (PROJECT / "README.md").read_text(), re.MULTILINE))
    assert list(table) == [setting.name for setting in SETTINGS]
    for setting in SETTINGS:
        default = setting.default.replace(f"{PROJECT}/", "")
        assert f"`{default}`" == table[setting.name] if default else "`" not in table[setting.name]


def test_every_setting_that_is_spoken_of_exists() -> None:
    paths = [path for pattern in ("*.md", "*.py", "docs/**/*.md", "llmstream/*.py") for path in PROJECT.glob(pattern)]
    spoken_of = {name for path in paths for name in re.findall(r"LLMSTREAM_[A-Z_]+[A-Z]", path.read_text())}
    assert spoken_of - {"LLMSTREAM_LOCAL_MODEL"} <= {setting.name for setting in SETTINGS}.union(INTERNAL)
