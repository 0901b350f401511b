"""llmstream: streams the answers of a language model, and keeps every one of them."""

from __future__ import annotations

import logging.config
import os
from collections.abc import Mapping

from flask import Flask


def create_app(environ: Mapping[str, str] | None = None) -> Flask:
    """The application, configured by environment variables. Raises config.ConfigError with a sentence that says what to do."""
    from . import (
        auth,
        chat,
        cli,
        compare,
        compiled,
        config,
        credentials,
        deletion,
        demo,
        errors,
        export,
        gate,
        history,
        identity,
        login,
        logs,
        openapi,
        queue,
        retention,
        review,
        stats,
        stream,
        views,
        visible,
    )
    from .extensions import db, engine_options, migrate
    from .generation import Generation
    from .search import Indexer
    from .usage import Meter

    logging.config.dictConfig(logs.CONFIG)
    app = Flask(__name__, template_folder="../templates", static_folder="../static")
    app.config.update(config.load(os.environ if environ is None else environ))
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(app.config["SQLALCHEMY_DATABASE_URI"])
    app.config["MAX_CONTENT_LENGTH"] = app.config["LLMSTREAM_MAX_BODY_BYTES"] + 1  # one more, to tell full from too much
    app.secret_key = config.secret_key(app.config)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        app.extensions["generation"] = Generation(db.engine, app.config)
        recorder = app.extensions["generation"].recorder
        app.extensions["indexer"] = Indexer(db.engine, recorder.me, recorder.live)
        app.extensions["meter"] = Meter(db.engine, app.config["LLMSTREAM_CALLS_PER_MINUTE"])

    app.extensions["retention"] = retention.Retention(app, app.config["LLMSTREAM_RETENTION_DAYS"])
    for step in (compiled, errors, gate, auth, identity):
        step.init_app(app)
    app.add_template_filter(visible.visible)
    app.cli.add_command(cli.prepare)
    app.cli.add_command(cli.backup)
    app.cli.add_command(demo.command)
    app.cli.add_command(retention.command)

    for group in (credentials.user, credentials.key):
        app.cli.add_command(group)
    for feature in (chat, deletion, export, compare, history, login, openapi, queue, review, stats, stream, views):
        app.register_blueprint(feature.bp)
    return app
