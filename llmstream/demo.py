"""`flask --app wsgi demo`: a believable history, so that each page can be judged at a glance. Its texts are in demo.toml."""

from __future__ import annotations

import re
import sys
import time
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import Connection, Engine, func, insert, select, text

from .config import describe_database
from .endings import ENDINGS, broken, completed
from .extensions import db
from .judgements import Review, SavedView, Tag, TagChange
from .models import Chunk, Completion, Conversation, now, title_of

TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SILENT = {*list(ENDINGS)[:5], "not_started", "storage_rejected"}  # they come before any text
OUTCOMES = {**{f"ok {reason}": share for reason, share in (("stop", 1800), ("length", 55), ("content_filter", 12), ("None", 9))},
            **dict.fromkeys(ENDINGS, 6), "cancelled": 70, "upstream_timeout": 25, "worker_lost": 20}  # fmt: skip
UNKNOWN_YET = ("reason", "error_type", "finish_reason", "response_model", "input_tokens", "output_tokens", "duration_ms",
               "timeline", "time_to_first_token_ms", "added_ms", "delivered_bytes", "delivery")  # fmt: skip
BATCH = 100
Row = dict[str, Any]


@click.command("demo")
@click.option("--count", default=3000, show_default=True, type=click.IntRange(1, 100_000), help="How many answers.")
@click.option("--days", default=60, show_default=True, type=click.IntRange(1, 3650), help="Over how many days until now.")
@click.option("--seed", default=1, show_default=True, help="Another number, another history.")
@click.option("--add", is_flag=True, help="Also where answers are stored already; they stay as they are.")
@with_appcontext
@click.pass_context
def command(context: click.Context, count: int, days: int, seed: int, add: bool) -> None:
    """Fill an empty database with a made-up history of every kind of answer, review and tag."""
    context.invoke(current_app.cli.commands["prepare"])
    database = describe_database(current_app.config["SQLALCHEMY_DATABASE_URI"])
    newest = db.session.scalar(select(func.max(Completion.created_at)))
    db.session.remove()
    if newest and not add:
        sys.exit(f"llmstream: There are answers in the {database} already, and the demo would stand among them. Nothing was "
                 "changed. Name a new database in DATABASE_URL; or add to it by: make demo DEMO=--add")  # fmt: skip
    begin = max(filter(None, (now() - timedelta(days), newest)))  # ids follow time, so what is added is newer than what is there
    made = store(db.engine, Writer(seed, begin, now()), count)
    sums = ", ".join(f"{len(rows):,} {table.__tablename__.replace('_', ' ')}" for table, rows in made.items())
    print(f"llmstream: {sums} and {len(TEXTS['views'])} views are in the {database}.\nStart the service with `make run` and look "
          "at /history, /review and /stats. The newest answer with a text is as if being written: a service that runs ends it as "
          "incomplete, since nobody writes it.")  # fmt: skip


def store(engine: Engine, writer: Writer, count: int) -> dict[Any, list[Row]]:
    """In short transactions, so that a service that runs meanwhile stores its own text in time."""
    rows = writer.rows(count)
    writing = next((row for row in reversed(rows) if row["finish_reason"] == "stop"), rows[-1])  # the newest that has a text
    half, half_at = writing["response"], writing["duration_ms"]
    writing |= dict.fromkeys(UNKNOWN_YET) | {"status": "in_progress", "response": "", "stop_requested": False, "judged": []}
    with engine.begin() as connection:
        first_talk = reserve(connection, "conversations", len({row["talk"] for row in rows}))
        made = numbered(rows, reserve(connection, "completions", count), first_talk)
        for name in sorted(TEXTS["views"].keys() - connection.scalars(select(SavedView.name).where(SavedView.owner == "local"))):
            connection.execute(insert(SavedView).values(owner="local", name=name, query=TEXTS["views"][name]))
    chunk = {"completion_id": made[Completion][rows.index(writing)]["id"], "start": 0, "text": half, "at_ms": half_at}
    for table, part in [*made.items(), (Chunk, [chunk] if half else [])]:
        for at in range(0, len(part), BATCH):
            with engine.begin() as connection:
                connection.execute(insert(table.__table__), part[at : at + BATCH])
            time.sleep(0.005)
    return made


def reserve(connection: Connection, table: str, count: int) -> int:
    """The first of `count` ids in a row that nobody else is given."""
    if connection.dialect.name == "sqlite":
        given = {"n": count, "t": table}
        if not connection.execute(text("UPDATE sqlite_sequence SET seq = seq + :n WHERE name = :t"), given).rowcount:
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:t, :n)"), given)
        last = connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :t"), given)
    else:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        last = connection.scalar(text(f"SELECT setval({sequence}, nextval({sequence}) + :n - 1)"), {"n": count})
    return int(last or 0) - count + 1


class Writer:
    """Makes up conversations between two moments. The same seed makes the same ones."""

    def __init__(self, seed: int, begin: datetime, end: datetime, brief: bool = False) -> None:
        """`brief`: no long texts and few points in a timeline, for very many rows."""
        self.random, self.begin, self.end, self.brief = Random(seed), begin, end, brief
        self.today = end  # no review is later
        self.outstanding = list(OUTCOMES)  # each kind of ending comes, however few rows there are
        self.random.shuffle(self.outstanding)

    def rows(self, count: int) -> list[Row]:
        """`count` completions in order of time. `talk` is a conversation's number, `again` the place of the regenerated one."""
        talks = (self.conversation(talk) for talk in range(count))
        made = sorted(islice((row for talk in talks for row in talk), count), key=lambda row: row["created_at"])
        place = {id(row): index for index, row in enumerate(made)}
        for row in made:
            row["again"] = place[id(row["again"])] if row["again"] else None
        return made

    def conversation(self, talk: int) -> Iterator[Row]:
        choose = self.random.choice
        topics = [topic for topic in TEXTS["topics"] if not (self.brief and "long" in topic["tags"])]
        topic = self.random.choices(topics, [topic.get("share", 5) for topic in topics])[0]
        first = self.random.randrange(len(topic["prompts"]))
        words = {name: choose(values) for name, values in TEXTS["slots"].items()}
        client, model = TEXTS["clients"][self.one_of("clients")], self.one_of("models")
        same = {"talk": talk, "request_model": model, "tags": topic["tags"], "system": None, "client_name": None, **client}
        if client["source"] == "api" and self.random.random() < 0.6:
            same["system"] = choose(TEXTS["systems"])
        followed = self.random.sample(topic["then"], self.random.choices(range(4), [55, 25, 14, 6])[0] % (len(topic["then"]) + 1))
        at = self.moment()
        for turn, (prompt, good) in enumerate([(topic["prompts"][first], topic["good"][first % len(topic["good"])]), *followed]):
            row, again = None, None
            while turn == 0 or row is None:
                is_bad = turn == 0 and self.random.random() > TEXTS["models"][model]["good"]
                bad = choose(topic["bad"]) if is_bad else None
                answer = filled(bad["text"], words) if bad else self.long(words) if good == "LONG" else filled(good, words)
                row = self.completion({**same, "prompt": filled(prompt, words), "again": again, "created_at": at}, answer)
                row["judged"] = self.judged(row, {**bad, "correction": filled(good, words)} if bad and good != "LONG" else bad)
                if at < self.end:
                    yield row
                at += timedelta(milliseconds=(row["duration_ms"] or 900) + self.random.uniform(8_000, 150_000))
                if self.random.random() > (0.5 if row["status"] != "completed" else 0.07):
                    break
                again = again or row

    def one_of(self, what: str) -> str:
        return self.random.choices(list(TEXTS[what]), [each["share"] for each in TEXTS[what].values()])[0]

    def moment(self) -> datetime:
        """Office hours are busy, nights and weekends quiet."""
        while True:
            at = self.begin + (self.end - self.begin) * self.random.random()
            if self.random.random() * 40 < TEXTS["hours"][at.hour] * (0.35 if at.weekday() > 4 else 1):
                return at

    def long(self, words: dict[str, str]) -> str:
        pages, choose = TEXTS["long"], self.random.choice
        weeks = (choose(pages["section"]).replace("<week>", str(n)) + " ".join(self.random.choices(pages["filler"], k=9)) + "\n"
                 for n in range(1, 53))  # fmt: skip
        return filled(pages["opening"] + "".join(weeks), words)

    def completion(self, row: Row, answer: str) -> Row:
        """`row` with its outcome and figures, as a run of the model would have left it."""
        chance, model = self.random, row["request_model"]
        kind = self.outstanding.pop() if self.outstanding else chance.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
        finish = kind.removeprefix("ok ") if kind.startswith("ok ") else ""
        ending = completed(None if finish == "None" else finish) if finish else broken(kind)
        if finish != "stop" and finish != "None":
            answer = "" if kind in SILENT else answer[: int(len(answer) * chance.uniform(0.2, 0.8))]
        timeline = self.timeline(answer, model)
        first, last = (timeline[0][1], timeline[-1][1]) if timeline else (None, round(chance.uniform(20, 5_000)))
        tokens = len(answer.encode()) // 4
        left = row["source"] == "chat" and chance.random() < 0.03
        counted = finish and chance.random() < 0.97
        return row | ending._asdict() | {
            "response": answer, "response_model": model if first else None, "provider_name": "demo", "remote_addr": "127.0.0.1",
            "parameters": {"max_tokens": tokens} if finish == "length" else chance.choice([{}, {}, {}, {"temperature": 0.2}]),
            "input_tokens": len(row["prompt"].encode()) // 4 + 12 if counted else None,
            "output_tokens": tokens if counted else None,
            "time_to_first_token_ms": first, "duration_ms": last + chance.randrange(2, 40), "timeline": timeline,
            "added_ms": round(chance.lognormvariate(1.1, 0.7), 1) if first else None,
            "delivered_bytes": int(len(answer.encode()) * (0.4 if left else 1)) if first else None,
            "delivery": ("left" if left else "complete" if finish else "cut") if first else None,
            "worker_id": "demo", "epoch": 0, "dropped_turns": 0, "stop_requested": kind == "cancelled", "body_hash": "",
        }  # fmt: skip

    def timeline(self, answer: str, model: str) -> list[list[int]] | None:
        """[[byte offset, ms], ...]: a wait, then words at the model's pace, with a stall now and then."""
        pace = TEXTS["models"][model]
        at, offset, points = pace["first_ms"] * self.random.lognormvariate(0, 0.5), 0, []
        for piece in re.findall(r"\s*\S{1,6}|\s+", answer):
            offset += len(piece.encode())
            points.append([offset, round(at)])
            stall = self.random.uniform(500, 6000) if self.random.random() < 0.004 else 0
            at += pace["token_ms"] * self.random.lognormvariate(0, 0.6) + stall
        step = -(-len(points) // (30 if self.brief else 500))
        return [*points[:-1:step], points[-1]] if points else None

    def judged(self, row: Row, bad: Row | None) -> list[Row]:
        """The reviews of this answer, oldest first: users' thumbs at once, reviewers the next days, not all of them."""
        chance, found, at = self.random, [], row["created_at"]
        age = (self.today - at) / (self.today - self.begin)
        thumb: Row = {"reviewer": row["owner"], "role": "user", "reason": None, "note": None, "correction": None}
        if row["source"] == "chat" and row["response"] and chance.random() < 0.12:
            rating = "bad" if bad or row["status"] != "completed" else "good"
            found.append(thumb | {"rating": rating, "created_at": at + timedelta(minutes=2)})
        share = 0.25 + 0.35 * age
        while row["response"] and chance.random() < share:
            review = thumb | {"reviewer": chance.choice(TEXTS["reviewers"]), "role": "reviewer", "rating": "good"}
            if bad and chance.random() < 0.95:
                review |= {"rating": "bad", "reason": bad["reason"], "note": bad["note"] or None}
                review["correction"] = bad.get("correction") if chance.random() < 0.5 else None
            elif row["status"] != "completed":
                review |= {"rating": "bad", "reason": "incomplete"}
            elif chance.random() < 0.2:
                review["note"] = chance.choice(TEXTS["praise"])
            at, share = at + timedelta(hours=chance.uniform(1, 40)), 0.06
            if at < self.today:
                found.append(review | {"created_at": at})
        return found


def filled(pattern: str, words: dict[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda found: words.get(found[1], found[0]), pattern)


def numbered(rows: list[Row], first: int, first_talk: int, shift: timedelta = timedelta()) -> dict[Any, list[Row]]:
    """The same as rows of tables, with ids from `first` on for completions and from `first_talk` on for conversations."""
    talks: dict[int, Row] = {}
    completions, reviews, tags, changes = [], [], [], []
    for place, source in enumerate(rows):
        row = {name: value for name, value in source.items() if name in Completion.__table__.columns}
        row["created_at"] += shift
        new = {"owner": row["owner"], "title": title_of(row["prompt"]), "created_at": row["created_at"]}
        talk = talks.setdefault(source["talk"], new | {"id": first_talk + len(talks)})
        row |= {"id": first + place, "conversation_id": talk["id"], "idempotency_key": f"demo-{first + place}"}
        row["turn"] = row["regenerated_from"] = None if source["again"] is None else first + source["again"]
        by_role = {review["role"]: review for review in source["judged"]}
        row["rating"] = (by_role.get("reviewer") or by_role.get("user") or {}).get("rating")
        row["reviewed_at"] = by_role["reviewer"]["created_at"] + shift if "reviewer" in by_role else None
        completions.append(row)
        for review in source["judged"]:
            reviews.append(review | {"completion_id": row["id"], "created_at": review["created_at"] + shift})
        for name in source["tags"] if by_role.get("reviewer") else ():
            tag = {"completion_id": row["id"], "name": name, "created_at": row["reviewed_at"]}
            tags.append(tag | {"tagged_by": by_role["reviewer"]["reviewer"]})
            changes.append(tag | {"change": "added", "changed_by": by_role["reviewer"]["reviewer"]})
    return {Conversation: list(talks.values()), Completion: completions, Review: reviews, Tag: tags, TagChange: changes}
