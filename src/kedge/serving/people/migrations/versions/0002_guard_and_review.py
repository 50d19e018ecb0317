"""What the guard did about answers, how far reward models are apart about them, and what reviewers say."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for column in (
        sa.Column("held", sa.JSON(none_as_null=True)),
        sa.Column("told", sa.Text),
        sa.Column("disagreement", sa.Float),
        sa.Column("reviewed", sa.Float),
    ):
        op.add_column("answers", column)
    op.add_column("feedback", sa.Column("review", sa.Integer))


def downgrade() -> None:
    with op.batch_alter_table("feedback") as table:
        table.drop_column("review")
    with op.batch_alter_table("answers") as table:
        for name in ("reviewed", "disagreement", "told", "held"):
            table.drop_column(name)
