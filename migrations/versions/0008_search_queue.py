"""Which completions wait for the search index is a table that triggers fill: no ending can be missed, however it is written."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TRIGGERS = {
    "sqlite": [
        """CREATE TRIGGER completions_fts_queue_made AFTER INSERT ON completions WHEN NEW.status <> 'in_progress'
               BEGIN INSERT OR IGNORE INTO completions_fts_queue VALUES (NEW.id); END""",
        """CREATE TRIGGER completions_fts_queue_ended AFTER UPDATE OF status ON completions
               WHEN OLD.status = 'in_progress' AND NEW.status <> 'in_progress'
               BEGIN INSERT OR IGNORE INTO completions_fts_queue VALUES (NEW.id); END""",
        # a connection whose foreign keys are off, as they are in sqlite3's own shell, leaves nothing behind either
        """CREATE TRIGGER completions_fts_queue_deleted AFTER DELETE ON completions
               BEGIN DELETE FROM completions_fts_queue WHERE completion_id = OLD.id; END""",
    ],
    "postgresql": [
        """CREATE FUNCTION completions_fts_queue() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO completions_fts_queue VALUES (NEW.id) ON CONFLICT DO NOTHING; RETURN NULL; END $$""",
        """CREATE TRIGGER completions_fts_queue_made AFTER INSERT ON completions FOR EACH ROW
               WHEN (NEW.status <> 'in_progress') EXECUTE FUNCTION completions_fts_queue()""",
        """CREATE TRIGGER completions_fts_queue_ended AFTER UPDATE OF status ON completions FOR EACH ROW
               WHEN (OLD.status = 'in_progress' AND NEW.status <> 'in_progress') EXECUTE FUNCTION completions_fts_queue()""",
    ],
}
NO_TRIGGERS = {
    "sqlite": [f"DROP TRIGGER completions_fts_queue_{when}" for when in ("made", "ended", "deleted")],
    "postgresql": ["DROP FUNCTION completions_fts_queue CASCADE"],
}
INDEXED = {
    "sqlite": "SELECT id FROM completions_fts_docsize",
    "postgresql": "SELECT completion_id FROM completions_fts",
}


def upgrade() -> None:
    kind = op.get_bind().dialect.name
    op.create_table(
        "completions_fts_queue",
        sa.Column("completion_id", ID, sa.ForeignKey("completions.id", ondelete="CASCADE"), nullable=False),
        sa.PrimaryKeyConstraint("completion_id", name=op.f("pk_completions_fts_queue")),
    )
    for statement in TRIGGERS[kind]:
        op.execute(statement)
    left = f"SELECT id FROM completions WHERE status <> 'in_progress' AND id NOT IN ({INDEXED[kind]})"
    op.execute(f"INSERT INTO completions_fts_queue {left}")
    op.drop_table("search_progress")


def downgrade() -> None:
    kind = op.get_bind().dialect.name
    op.create_table(
        "search_progress",
        sa.Column("id", ID, nullable=False),
        sa.Column("indexed_to", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_progress")),
        sqlite_autoincrement=True,
    )
    for statement in NO_TRIGGERS[kind]:
        op.execute(statement)
    op.drop_table("completions_fts_queue")
