"""Who gave a tag and who took it away: until now a tag that was gone had never been."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KNOWN = """INSERT INTO tag_changes (completion_id, name, change, changed_by, created_at)
           SELECT completion_id, name, 'added', tagged_by, created_at FROM tags ORDER BY created_at, completion_id, name"""


def upgrade() -> None:
    op.create_table(
        "tag_changes",
        sa.Column("id", ID, nullable=False),
        sa.Column("completion_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name="fk_tag_changes_completion_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_tag_changes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tag_changes_completion_id", "tag_changes", ["completion_id"])
    op.execute(KNOWN)


def downgrade() -> None:
    op.drop_table("tag_changes")
