"""Whose name stands under a judgement: the login's, or without one a name typed once; and which browser it is."""

from __future__ import annotations

import re
import secrets

from flask import Flask, Response, after_this_request, request

from .access import actor

NOBODY = "local"  # the reviewer whose name was never typed
LONGEST_NAME = 50


def init_app(app: Flask) -> None:
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
        known = secrets.token_urlsafe(16)
        keep_cookie("browser", known)
    return known


def keep_cookie(name: str, value: str) -> None:
    @after_this_request
    def add(response: Response) -> Response:
        response.set_cookie(name, value, max_age=31_536_000, httponly=True, samesite="Lax", secure=request.is_secure)
        return response
