"""Answers, and what was said of them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("person", sa.String(256), index=True),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("prompt_ids", sa.JSON, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("ids", sa.JSON, nullable=False),
        sa.Column("logprobs", sa.JSON, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("finish_reason", sa.String(16), nullable=False),
    )
    of_answers = lambda: sa.ForeignKey("answers.id", ondelete="CASCADE")  # noqa: E731
    op.create_table(
        "feedback",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(256), unique=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("answer", sa.String(80), of_answers(), nullable=False, index=True),
        sa.Column("annotator", sa.String(256), index=True),
        sa.Column("thumb", sa.Integer),
        sa.Column("score", sa.Float),
        sa.Column("worse", sa.String(80), of_answers(), index=True),
        sa.Column("correction", sa.Text),
        sa.Column("comment", sa.Text),
        sa.CheckConstraint("thumb IN (0, 1)", name="thumb_is_up_or_down"),
    )


def downgrade() -> None:
    op.drop_table("feedback")
    op.drop_table("answers")
