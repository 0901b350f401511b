"""What the review needs: an answer's rating beside it, one narrow index for every filter, and a full-text index.

Neither statement rewrites a table: columns are added empty, indexes are built in seconds for a million rows, and the full-text
index starts empty. The service fills it while it runs (llmstream/search.py).
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FACETS = [
    "id",
    "created_at",
    "status",
    "request_model",
    "source",
    "owner",
    "rating",
    "reviewed_at",
    "time_to_first_token_ms",
    "duration_ms",
    "added_ms",
    "input_tokens",
    "output_tokens",
]
JUDGED = sa.text("rating IS NOT NULL OR reviewed_at IS NOT NULL")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SEARCH = {
    "sqlite": [
        # the words are cut and folded by llmstream/search.py, alike for both databases: here they are only stored
        """CREATE VIRTUAL TABLE completions_fts USING fts5(
               words, content='', contentless_delete=1, tokenize='ascii')""",
        """CREATE TRIGGER completions_fts_delete AFTER DELETE ON completions
               BEGIN DELETE FROM completions_fts WHERE rowid = OLD.id; END""",
    ],
    "postgresql": [
        """CREATE TABLE completions_fts (
               completion_id bigint PRIMARY KEY REFERENCES completions ON DELETE CASCADE,
               document tsvector NOT NULL)""",
        "CREATE INDEX ix_completions_fts_document ON completions_fts USING gin (document)",
    ],
}


def upgrade() -> None:
    op.add_column("completions", sa.Column("rating", sa.Text(), nullable=True))
    op.add_column("completions", sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_completions_facets", "completions", FACETS)
    op.create_index("ix_completions_judged", "completions", FACETS, sqlite_where=JUDGED, postgresql_where=JUDGED)
    op.drop_index("ix_tags_name", "tags")
    op.create_index("ix_tags_name", "tags", ["name", "completion_id"])
    op.create_index("ix_reviews_reason", "reviews", ["reason", "completion_id"])
    op.create_table(
        "search_progress",
        sa.Column("id", ID, nullable=False),
        sa.Column("indexed_to", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_progress")),
        sqlite_autoincrement=True,
    )
    for statement in SEARCH[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE completions_fts")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER completions_fts_delete")
    op.drop_table("search_progress")
    op.drop_index("ix_reviews_reason", "reviews")
    op.drop_index("ix_tags_name", "tags")
    op.create_index("ix_tags_name", "tags", ["name"])
    for index in ("ix_completions_judged", "ix_completions_facets"):
        op.drop_index(index, "completions")
    op.drop_column("completions", "reviewed_at")
    op.drop_column("completions", "rating")
