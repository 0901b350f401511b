"""What a reader of the program would find, found by a program: bandit over llmstream/."""

import json
import subprocess
import sys

from tests.service import ROOT

# B101: asserts say what is known. B105: an empty string is no password. B311: random numbers that guard nothing.
# B404, B603: the bundled model is a process of its own.
SKIPPED = "B101,B105,B311,B404,B603"


def test_bandit_finds_nothing_of_medium_weight() -> None:
    command = [
        sys.executable,
        "-m",
        "bandit",
        "-q",
        "-r",
        "llmstream",
        "wsgi.py",
        "gunicorn.conf.py",
        "-f",
        "json",
        "-s",
        SKIPPED,
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = [
        f"{one['filename']}:{one['line_number']} {one['test_id']} {one['issue_text']}"
        for one in json.loads(ran.stdout)["results"]
    ]
    assert not found, "\n".join(found)
