"""The table of modules in docs/architecture.md is true, and its arrows go down only."""
import ast
from pathlib import Path

import pytest

from tests.contract import table
from tests.service import ROOT

PROGRAM = ROOT / "llmstream"
MODULES = sorted(path.stem for path in PROGRAM.glob("*.py"))
TABLE = {row["module"]: row for row in table("Modules", "module", "architecture.md")}
ORDER = list(TABLE)
FEATURES = {"stream", "chat", "history", "queue", "review", "compare", "views", "openapi", "login", "cli", "credentials", "demo",
            "export", "deletion", "retention", "stats"}


def imports(module: str) -> set[str]:
    """The modules of ours that this one imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PROGRAM / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("llmstream.")}
        elif isinstance(node, ast.ImportFrom):
            path = "." * node.level + (node.module or "")
            if path in (".", "llmstream"):
                found |= {name.name for name in node.names}
            elif path.startswith((".", "llmstream.")):
                found.add(path.removeprefix("llmstream").strip(".").split(".")[0])
    return found


def test_each_module_stands_in_the_table() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_the_table_says(module: str) -> None:
    documented = TABLE[module]["imports"]
    assert imports(module) == (set() if documented == "-" else set(documented.split(", ")))


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_down_only(module: str) -> None:
    assert all(ORDER.index(below) < ORDER.index(module) for below in imports(module))
    if module != "__init__":
        assert not imports(module) & FEATURES, "features are imported by create_app() only"


@pytest.mark.parametrize("module", ["config", "endings", "schemas", "sse", "local_model"])
def test_what_stands_alone_imports_nothing_of_ours(module: str) -> None:
    assert not imports(module)


def test_the_upstreams_words_are_known_to_one_file_only() -> None:
    for word in ("prompt_tokens", "include_usage", "chat/completions", "[DONE]"):
        holders = {module for module in MODULES if word in (PROGRAM / f"{module}.py").read_text()}
        assert holders == {"provider"}, word


@pytest.mark.parametrize("path", sorted(PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_no_file_is_longer_than_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250
    assert path.stem not in ("utils", "util", "helpers", "common", "misc", "base", "services", "dao")
