"""What a deletion leaves behind of a conversation: its turns in their order, and where some are missing."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FROM_ITS_ORIGIN = """UPDATE completions SET turn = regenerated_from WHERE regenerated_from < id
    AND conversation_id = (SELECT conversation_id FROM completions AS origin WHERE origin.id = completions.regenerated_from)"""
FURTHER_BACK = """UPDATE completions SET turn = (SELECT origin.turn FROM completions AS origin WHERE origin.id = completions.turn)
    WHERE turn IN (SELECT id FROM completions WHERE turn IS NOT NULL)"""


def upgrade() -> None:
    op.add_column("completions", sa.Column("turn", sa.BigInteger(), nullable=True))
    op.add_column("conversations", sa.Column("deleted_from", sa.BigInteger(), nullable=True))
    op.execute(FROM_ITS_ORIGIN)
    while op.get_bind().execute(sa.text(FURTHER_BACK)).rowcount:  # a regeneration of a regeneration
        pass


def downgrade() -> None:
    op.drop_column("conversations", "deleted_from")
    op.drop_column("completions", "turn")
