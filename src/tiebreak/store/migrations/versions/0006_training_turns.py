"""Training runs that wait or run, and records of runs that ended before their data was read."""

import sqlalchemy as sa
from alembic import op

from tiebreak.store.migrations import guards

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of turns, and let the record of a run have no data."""
    op.create_table(
        "training_turns",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("cancelled_by", sa.Text(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("workflow", name=op.f("training_turns_pkey")),
        comment="One row a workflow: the training run that waits or runs, and how far it is.",
    )
    op.alter_column("ml_training_runs", "data_hash", existing_type=sa.Text(), nullable=True)
    for statement in guards.protect("training_turns"):
        op.execute(statement)
