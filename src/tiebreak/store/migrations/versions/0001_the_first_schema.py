"""The first schema."""

import sqlalchemy as sa
from alembic import op

from tiebreak.store.migrations import guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


TABLES = (
    "audit_lanes",
    "audit_seals",
    "decision_keys",
    "decisions",
    "erasures",
    "history_log",
    "history_slots",
    "knob_history",
    "ml_feedback",
    "ml_shadow_scores",
    "ml_training_runs",
    "outcomes",
    "persons",
    "policies",
    "system_audit",
    "ticket_keys",
    "tickets",
    "workflow_clocks",
    "workflow_versions",
    "api_keys",
    "release_records",
    "api_key_revocations",
)


def upgrade() -> None:
    """Create every table, the functions that guard them, and each table's guards."""
    op.create_table(
        "audit_lanes",
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("audit_lanes_pkey")),
        comment="A lane is the seal chain of one writer.",
    )
    op.create_table(
        "audit_seals",
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "seq", name=op.f("audit_seals_pkey")),
    )
    op.create_table(
        "decision_keys",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint(
            "workflow", "ticket_id", "revision", "ordinal", name=op.f("decision_keys_pkey")
        ),
    )
    op.create_table(
        "decisions",
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("band", sa.SmallInteger(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("route_reason", sa.Text(), nullable=False),
        sa.Column("is_tie", sa.Boolean(), nullable=False),
        sa.Column("review_probability", sa.Double(), nullable=False),
        sa.Column("rules_band", sa.SmallInteger(), nullable=False),
        sa.Column("rules_points", sa.BigInteger(), nullable=False),
        sa.Column("hard_floor", sa.SmallInteger(), nullable=True),
        sa.Column("fired", sa.Text(), nullable=True),
        sa.Column("model_status", sa.Text(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("model_band", sa.SmallInteger(), nullable=True),
        sa.Column("base_value", sa.Double(), nullable=True),
        sa.Column("contributions", sa.LargeBinary(), nullable=True),
        sa.Column("errors", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("as_of", "decision_id", name=op.f("decisions_pkey")),
        postgresql_partition_by="RANGE (as_of)",
    )
    op.create_index(
        op.f("decisions_workflow_as_of_decision_id_idx"),
        "decisions",
        ["workflow", "as_of", "decision_id"],
        unique=False,
    )
    op.create_table(
        "erasures",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("places", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "ticket_id", "ordinal", name=op.f("erasures_pkey")),
    )
    op.create_table(
        "history_log",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("entity_key", sa.LargeBinary(), nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("totals", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint(
            "workflow", "generation", "entity_key", "known_at", name=op.f("history_log_pkey")
        ),
    )
    op.create_table(
        "history_slots",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "workflow", "generation", "entity", "position", name=op.f("history_slots_pkey")
        ),
        sa.UniqueConstraint(
            "workflow",
            "generation",
            "entity",
            "slot",
            name=op.f("history_slots_workflow_generation_entity_slot_key"),
        ),
    )
    op.create_table(
        "knob_history",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("knob", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "knob", "ordinal", name=op.f("knob_history_pkey")),
    )
    op.create_table(
        "ml_feedback",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("band", sa.SmallInteger(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "ticket_id", "ordinal", name=op.f("ml_feedback_pkey")),
    )
    op.create_table(
        "ml_shadow_scores",
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("band", sa.SmallInteger(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint(
            "as_of",
            "workflow",
            "ticket_id",
            "revision",
            "policy_hash",
            name=op.f("ml_shadow_scores_pkey"),
        ),
        postgresql_partition_by="RANGE (as_of)",
    )
    op.create_table(
        "ml_training_runs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("workflow_version", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=True),
        sa.Column("data_hash", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("versions", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("ml_training_runs_pkey")),
    )
    op.create_table(
        "outcomes",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('outcome', 'closed', 'acted')", name=op.f("outcomes_kind_check")
        ),
        sa.PrimaryKeyConstraint("workflow", "ticket_id", "ordinal", name=op.f("outcomes_pkey")),
    )
    op.create_table(
        "persons",
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("person", name=op.f("persons_pkey")),
    )
    op.create_table(
        "policies",
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("workflow_version", sa.Text(), nullable=False),
        sa.Column("rules_version", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=True),
        sa.Column("tiebreak_version", sa.Text(), nullable=True),
        sa.Column("history_generation", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("policy_hash", name=op.f("policies_pkey")),
    )
    op.create_table(
        "system_audit",
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("system_audit_pkey")),
    )
    op.create_index(op.f("system_audit_at_idx"), "system_audit", ["at"], unique=False)
    op.create_table(
        "ticket_keys",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "ticket_id", "revision", name=op.f("ticket_keys_pkey")),
    )
    op.create_index(
        op.f("ticket_keys_workflow_as_of_idx"),
        "ticket_keys",
        ["workflow", "as_of"],
        unique=False,
        postgresql_where=sa.text("origin = 'live'"),
    )
    op.create_table(
        "tickets",
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("context", sa.Text(), nullable=True),
        sa.Column("ticket_hash", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "as_of", "workflow", "ticket_id", "revision", name=op.f("tickets_pkey")
        ),
        postgresql_partition_by="RANGE (as_of)",
    )
    op.create_table(
        "workflow_clocks",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("last_as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("history_generation", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("decided_through", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workflow", name=op.f("workflow_clocks_pkey")),
        comment="One row a workflow; its row lock is the workflow's history lock.",
    )
    op.create_table(
        "workflow_versions",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("workflow_version", sa.Text(), nullable=False),
        sa.Column("rules_version", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "ordinal", name=op.f("workflow_versions_pkey")),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("roles", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["persons.person"], name=op.f("api_keys_person_fkey")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("api_keys_pkey")),
    )
    op.create_table(
        "release_records",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.CheckConstraint("author <> approver", name=op.f("release_records_four_eyes_check")),
        sa.ForeignKeyConstraint(
            ["approver"], ["persons.person"], name=op.f("release_records_approver_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["author"], ["persons.person"], name=op.f("release_records_author_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["policy_hash"], ["policies.policy_hash"], name=op.f("release_records_policy_hash_fkey")
        ),
        sa.PrimaryKeyConstraint("workflow", "seq", name=op.f("release_records_pkey")),
    )
    op.create_table(
        "api_key_revocations",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.key_id"], name=op.f("api_key_revocations_key_id_fkey")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("api_key_revocations_pkey")),
    )
    for statement in guards.functions():
        op.execute(statement)
    for table in TABLES:
        for statement in guards.protect(table):
            op.execute(statement)
