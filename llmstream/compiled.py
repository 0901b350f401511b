"""Templates as compiled code, kept beside them as Python keeps its own.

To compile all takes 0.4 s, and a page needs several: the first to see one would hold up every stream of the worker meanwhile.
"""

from contextlib import suppress
from pathlib import Path

from flask import Flask
from jinja2 import FileSystemBytecodeCache
from jinja2.bccache import Bucket


class Kept(FileSystemBytecodeCache):
    """Never in the way of a page: where it cannot be read or written, each worker compiles for itself."""

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return super().get_cache_key(name)  # one file a template, by whatever path the folder is reached

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            super().load_bytecode(bucket)
        except Exception:  # what it raises on a file that was cut is nowhere said
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            super().dump_bytecode(bucket)


def init_app(app: Flask) -> None:
    folder = Path(app.root_path, app.template_folder or "", "__pycache__").resolve()
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
    app.jinja_env.bytecode_cache = Kept(str(folder))


def compile_all(app: Flask) -> None:
    """Those that are not there yet, or have changed."""
    for name in app.jinja_env.list_templates(["html"]):
        app.jinja_env.get_template(name)
