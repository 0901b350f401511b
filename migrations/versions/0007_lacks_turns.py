"""What was sent with a turn that is gone says so by itself: what is asked after the deletion lacks nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MARK = """UPDATE completions SET lacks_turns = true WHERE messages IS NULL
    AND conversation_id IN (SELECT id FROM conversations WHERE deleted_from IS NOT NULL)
    AND coalesce(turn, id) > (SELECT deleted_from FROM conversations WHERE conversations.id = completions.conversation_id)"""
NAME_THE_FIRST = """UPDATE conversations SET deleted_from = (SELECT min(coalesce(turn, id)) - 1 FROM completions
    WHERE conversation_id = conversations.id AND lacks_turns)"""


def upgrade() -> None:
    op.add_column("completions", sa.Column("lacks_turns", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(MARK)
    op.drop_column("conversations", "deleted_from")


def downgrade() -> None:
    op.add_column("conversations", sa.Column("deleted_from", sa.BigInteger(), nullable=True))
    op.execute(NAME_THE_FIRST)
    op.drop_column("completions", "lacks_turns")
