"""New generations of history logs: which version defines a slot, and how far a build is."""

import sqlalchemy as sa
from alembic import op

from tiebreak.store.migrations import guards

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the slots' version, the table of builds, and outcomes in the order they were known."""
    op.add_column("history_slots", sa.Column("workflow_version", sa.Text(), nullable=True))
    op.create_table(
        "history_builds",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("base", sa.Integer(), nullable=False),
        sa.Column("through", sa.DateTime(timezone=True), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("erased", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "generation", name=op.f("history_builds_pkey")),
        comment="How far new generations of history logs are built.",
    )
    op.create_index(
        op.f("outcomes_workflow_known_at_idx"), "outcomes", ["workflow", "known_at"], unique=False
    )
    for statement in guards.protect("history_builds"):
        op.execute(statement)
