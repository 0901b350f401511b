"""Whose limits a prompt counts for, and the indexes that count it; rows from before a login have none and are in neither."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WITH_LOGIN = sa.text("credential IS NOT NULL")
INDEXES = {
    "ix_completions_credential": ["credential", "created_at", "delivered_bytes"],
    "ix_completions_remote_addr": ["remote_addr", "created_at", "delivered_bytes"],
}


def upgrade() -> None:
    op.add_column("completions", sa.Column("credential", sa.Text(), nullable=True))
    for name, columns in INDEXES.items():
        op.create_index(name, "completions", columns, sqlite_where=WITH_LOGIN, postgresql_where=WITH_LOGIN)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "completions")
    op.drop_column("completions", "credential")
