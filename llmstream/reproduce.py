"""One completion's call once more: what POST /stream is sent, and that as curl and as a program."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from .models import Completion, turns

KEY = "API_KEY"  # the variable of one's shell that holds it
LONGEST_WORD = 100_000  # bytes; Linux takes 128 KiB in one word of a command


def same_call(completion: Completion, conversation: Sequence[Completion]) -> dict[str, Any]:
    """The body that asks the same once more.

    A first prompt can be asked anywhere. A later one depends on the turns before it, deleted ones too, so only
    `regenerate` has the same context: `conversation_id` would send this very answer along. All that the conversation might have
    changed since is named.
    """
    is_first = completion in turns(conversation)[0] and not (completion.messages or completion.lacks_turns)
    body: dict[str, Any] = {"prompt": completion.prompt} if is_first else {"regenerate": completion.id}
    body["model"] = completion.request_model
    if completion.system or (not is_first and turns(conversation)[-1][-1].system):
        body["system"] = completion.system or ""
    return body | {name: value for name, value in completion.parameters.items() if value is not None}


def as_curl(body: dict[str, Any], url: str, with_key: bool = False) -> str:
    """For a POSIX shell, whatever the text: what cannot be printed is escaped in the JSON."""
    data = json.dumps(body, ensure_ascii=False)
    data = data if data.isprintable() else json.dumps(body)
    key = f'--header "Authorization: Bearer ${KEY}" \\\n  ' if with_key else ""
    start = f"curl --no-buffer {shlex.quote(url)} \\\n  --header 'Content-Type: application/json' \\\n  {key}"
    if len(data.encode()) > LONGEST_WORD:
        return f"{start}--data-binary @- <<'END'\n{data}\nEND"
    return f"{start}--data-raw {shlex.quote(data)}"


def as_program(body: dict[str, Any], url: str, with_key: bool = False) -> str:
    """For Python with requests; `repr` escapes what cannot be printed."""
    fields = "".join(f"    {name!r}: {value!r},\n" for name, value in body.items())
    imports = "import os\n\nimport requests" if with_key else "import requests"
    key = f'headers = {{"Authorization": f"Bearer {{os.environ[{KEY!r}]}}"}}\n' if with_key else ""
    return f"""{imports}

body = {{
{fields}}}
{key}with requests.post({url!r}, json=body, {"headers=headers, " if with_key else ""}stream=True) as response:
    response.raise_for_status()
    for piece in response.iter_content(None, decode_unicode=True):
        print(piece, end="", flush=True)
"""
