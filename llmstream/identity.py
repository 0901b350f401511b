"""Whose name stands under a judgement: the login's, or without one a name typed once; and which browser it is."""

from __future__ import annotations

import re
import secrets

from flask import Flask, Response, g, request

from .access import actor

NOBODY = "local"  # the reviewer whose name was never typed
LONGEST_NAME = 50


def init_app(app: Flask) -> None:
    app.after_request(keep_cookies)
    app.jinja_env.globals["reviewer"] = reviewer


def reviewer() -> str:
    return actor().name if actor().credential else plain_name(request.cookies.get("reviewer", "")) or NOBODY


def plain_name(text: str) -> str:
    """With single spaces; empty where it cannot be a name."""
    name = " ".join(text.split())
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def browser() -> str:
    """Tells browsers apart, so that two of them are not given the same answer to review."""
    known = request.cookies.get("browser", "")
    if not re.fullmatch(r"[\w-]{22}", known, re.ASCII):
        known = g.setdefault("cookies", {}).setdefault("browser", secrets.token_urlsafe(16))
    return known


def call_reviewer(name: str) -> None:
    g.setdefault("cookies", {})["reviewer"] = name


def keep_cookies(response: Response) -> Response:
    for name, value in g.get("cookies", {}).items():
        response.set_cookie(name, value, max_age=31_536_000, httponly=True, samesite="Lax", secure=request.is_secure)
    return response
