"""The tables. Alembic migrations are proved equal to this metadata.

Sealed tables carry `salt`, `lane`, `seal_seq` and `seal_position`: where in which seal the
record's leaf stands (`audit.seals`). The leaf commits to every other column of the row.
Timestamps are UTC. Tables partitioned by year hold the partition column in their primary key.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

Moment = DateTime(timezone=True)


def _seal() -> list[Column[object]]:
    """The columns that tie a record to its leaf; `salt` is null once the record is erased."""
    return [
        Column("salt", LargeBinary, nullable=True),
        Column("lane", Uuid, nullable=False),
        Column("seal_seq", BigInteger, nullable=False),
        Column("seal_position", Integer, nullable=False),
    ]


def _columns(*columns: Column[object]) -> list[Column[object]]:
    return [*columns, *_seal()]


# --- people and keys -----------------------------------------------------------------------

persons = Table(
    "persons",
    metadata,
    Column("person", Text, primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("created_by", Text, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("person", Text, ForeignKey("persons.person"), nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),  # sha256 of a 256-bit random secret
    Column("created_at", Moment, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Moment),
)

api_key_revocations = Table(
    "api_key_revocations",
    metadata,
    Column("key_id", Text, ForeignKey("api_keys.key_id"), primary_key=True),
    Column("revoked_at", Moment, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

# --- configuration -------------------------------------------------------------------------

workflow_versions = Table(
    "workflow_versions",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("ordinal", Integer, primary_key=True),
        Column("workflow_version", Text, nullable=False),  # Workflow.version
        Column("rules_version", Text, nullable=False),  # RuleSet.version
        Column("config", Text, nullable=False),  # Workflow as JSON
        Column("rules", Text, nullable=False),  # RuleSet as JSON
        Column("created_at", Moment, nullable=False),
        Column("author", Text, nullable=False),
        Column("reason", Text, nullable=False),
    ),
    CheckConstraint("ordinal >= 1", name="ordinal"),
)

knob_history = Table(
    "knob_history",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("knob", Text, primary_key=True),
        Column("ordinal", Integer, primary_key=True),  # of the workflow version that set it
        Column("value", Text, nullable=False),  # JSON
        Column("created_at", Moment, nullable=False),
        Column("author", Text, nullable=False),
        Column("reason", Text, nullable=False),
    ),
)

policies = Table(
    "policies",
    metadata,
    *_columns(
        Column("policy_hash", Text, primary_key=True),
        Column("workflow", Text, nullable=False),
        Column("workflow_version", Text, nullable=False),
        Column("rules_version", Text, nullable=False),
        Column("bundle_digest", Text),  # null: rules alone
        Column("tiebreak_version", Text),  # null: ties go to review
        Column("history_generation", Integer, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("author", Text, nullable=False),
    ),
)

release_records = Table(
    "release_records",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("seq", Integer, primary_key=True),  # the newest record says what is in production
        Column("policy_hash", Text, ForeignKey("policies.policy_hash"), nullable=False),
        Column("bundle_digest", Text),
        Column("author", Text, ForeignKey("persons.person"), nullable=False),
        Column("approver", Text, ForeignKey("persons.person")),  # null: a demotion
        Column("reason", Text, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("mac", LargeBinary, nullable=False),
        # install | promote | rollback | demote; null: installed before kinds were noted
        Column("kind", Text),
        Column("release_id", Uuid, ForeignKey("releases.release_id")),
    ),
    CheckConstraint("author <> approver", name="four_eyes"),
    CheckConstraint("kind IN ('install', 'promote', 'rollback', 'demote')", name="kind"),
    CheckConstraint("(approver IS NULL) = (coalesce(kind, 'install') = 'demote')", name="approver"),
    CheckConstraint(r"reason ~ '\S'", name="reason"),
)

# --- releases: triggers refuse what does not follow (0004, 0007) ------------------------

releases = Table(
    "releases",
    metadata,
    *_columns(
        Column("release_id", Uuid, primary_key=True),
        Column("workflow", Text, nullable=False),
        Column("policy_hash", Text, ForeignKey("policies.policy_hash"), nullable=False),
        Column("base_seq", Integer, nullable=False),  # of the record it is compared with; 0: none
        Column("backtest_id", Text, nullable=False),  # backtest.evidence.Backtest.id
        Column("author", Text, ForeignKey("persons.person"), nullable=False),
        Column("reason", Text, nullable=False),
        Column("created_at", Moment, nullable=False),
    ),
    CheckConstraint(r"reason ~ '\S'", name="reason"),
)

release_events = Table(
    "release_events",
    metadata,
    *_columns(
        Column("release_id", Uuid, ForeignKey("releases.release_id"), primary_key=True),
        Column("seq", Integer, primary_key=True),  # 1, 2, … a release
        Column("kind", Text, nullable=False),  # release.states.Kind
        Column("actor", Text, nullable=False),
        Column("at", Moment, nullable=False),
        Column("detail", Text, nullable=False),  # JSON, never personal data
    ),
)

gate_evaluations = Table(
    "gate_evaluations",
    metadata,
    *_columns(
        Column("evaluation_id", Uuid, primary_key=True),
        Column("release_id", Uuid, ForeignKey("releases.release_id"), nullable=False),
        Column("policy_hash", Text, nullable=False),
        Column("production_seq", Integer, nullable=False),
        Column("stage", Text, nullable=False),  # canary | promotion
        Column("evaluated_at", Moment, nullable=False),
        Column("is_passed", Boolean, nullable=False),
        Column("results", Text, nullable=False),  # JSON
    ),
    CheckConstraint("stage IN ('canary', 'promotion')", name="stage"),
)

release_approvals = Table(
    "release_approvals",
    metadata,
    *_columns(
        Column(
            "evaluation_id", Uuid, ForeignKey("gate_evaluations.evaluation_id"), primary_key=True
        ),
        Column("approver", Text, ForeignKey("persons.person"), primary_key=True),
        Column("release_id", Uuid, ForeignKey("releases.release_id"), nullable=False),
        Column("stage", Text, nullable=False),  # canary | promotion
        Column("policy_hash", Text, nullable=False),
        Column("production_seq", Integer, nullable=False),
        Column("given_at", Moment, nullable=False),
        Column("expires_at", Moment, nullable=False),
        Column("note", Text, nullable=False),
    ),
    CheckConstraint("stage IN ('canary', 'promotion')", name="stage"),
)

rollback_approvals = Table(
    "rollback_approvals",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("production_seq", Integer, primary_key=True),  # of the record that is replaced
        Column("policy_hash", Text, ForeignKey("policies.policy_hash"), primary_key=True),
        Column("approver", Text, ForeignKey("persons.person"), primary_key=True),
        Column("given_at", Moment, nullable=False),
        Column("reason", Text, nullable=False),  # why it is rolled back
    ),
)

canary_records = Table(
    "canary_records",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("seq", Integer, primary_key=True),  # the newest record says what is the canary
        Column("release_id", Uuid, ForeignKey("releases.release_id"), nullable=False),
        Column("policy_hash", Text, nullable=False),
        Column("bundle_digest", Text),
        Column("production_seq", Integer, nullable=False),  # beside any other it decides nothing
        Column("percent", Integer, nullable=False),  # of tickets, by their hash; 0: none
        Column("author", Text, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("mac", LargeBinary, nullable=False),
    ),
    CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
)

release_countersignatures = Table(
    "release_countersignatures",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("seq", Integer, primary_key=True),  # of the demotion
        Column("signer", Text, ForeignKey("persons.person"), nullable=False),
        Column("at", Moment, nullable=False),
        Column("note", Text, nullable=False),
    ),
    ForeignKeyConstraint(["workflow", "seq"], ["release_records.workflow", "release_records.seq"]),
)

shadow_progress = Table(
    "shadow_progress",
    metadata,
    Column("release_id", Uuid, ForeignKey("releases.release_id"), primary_key=True),
    Column("through", Moment, nullable=False),  # `as_of` up to which all decisions are scored
    Column("scored", BigInteger, nullable=False),
    Column("updated_at", Moment, nullable=False),
    comment="How far candidates have scored in shadow.",
)

ml_training_runs = Table(
    "ml_training_runs",
    metadata,
    *_columns(
        Column("run_id", Uuid, primary_key=True),
        Column("workflow", Text, nullable=False),
        Column("workflow_version", Text, nullable=False),
        Column("bundle_digest", Text),
        Column("data_hash", Text),  # null: it ended before all data was read
        Column("seed", BigInteger, nullable=False),
        Column("parameters", Text, nullable=False),  # JSON
        Column("metrics", Text, nullable=False),  # JSON
        Column("versions", Text, nullable=False),  # JSON
        Column("started_at", Moment, nullable=False),
        Column("finished_at", Moment, nullable=False),
        Column("author", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("result", Text, nullable=False),  # training.ends.Result
    ),
)

training_turns = Table(
    "training_turns",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("run_id", Uuid),  # null: no run has its turn
    Column("request", Text, nullable=False),  # JSON, training.requests.Request
    Column("state", Text, nullable=False),  # queued | running
    Column("asked_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("beat_at", Moment),  # when its supervisor last told of it
    Column("step", Text, nullable=False),
    Column("share", Double, nullable=False),  # of the step that is done, 0 to 1
    Column("data", Text),  # JSON: what was read and with which parameters, once that is known
    Column("cancelled_by", Text),
    Column("cancel_reason", Text),
    comment="One row a workflow: the training run that waits or runs, and how far it is.",
)

# --- tickets, history and decisions --------------------------------------------------------

workflow_clocks = Table(
    "workflow_clocks",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("last_as_of", Moment, nullable=False),  # every new `as_of` is greater
    Column("history_generation", Integer, nullable=False, server_default=text("1")),
    Column("decided_through", Moment, nullable=False),  # all live tickets up to here are decided
    comment="One row a workflow; its row lock is the workflow's history lock.",
)

history_slots = Table(
    "history_slots",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("position", Integer, primary_key=True),  # index in history_log.totals, from 0
    Column("slot", Text, nullable=False),  # core.totals.Slot.id
    Column("workflow_version", Text),  # that defines it; null: from before versions were noted
    UniqueConstraint("workflow", "generation", "entity", "slot"),
)

history_builds = Table(
    "history_builds",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("base", Integer, nullable=False),  # the generation that served when it was begun
    Column("through", Moment, nullable=False),  # all that was known up to here is in the log
    Column("events", BigInteger, nullable=False),
    Column("erased", BigInteger, nullable=False),  # events left out because their ticket is erased
    comment="How far new generations of history logs are built.",
)

history_log = Table(
    "history_log",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("entity_key", LargeBinary, primary_key=True),  # 16 bytes of HMAC-SHA256
    Column("known_at", Moment, primary_key=True),
    Column("totals", ARRAY(BigInteger), nullable=False),
)

ticket_keys = Table(
    "ticket_keys",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("ticket_id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("content_hash", LargeBinary, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("origin", Text, nullable=False),  # live | import | arrived
    Index(None, "workflow", "as_of", postgresql_where=text("origin = 'live'")),
)

tickets = Table(
    "tickets",
    metadata,
    *_columns(
        Column("as_of", Moment, primary_key=True),
        Column("workflow", Text, primary_key=True),
        Column("ticket_id", Text, primary_key=True),
        Column("revision", Integer, primary_key=True),
        Column("received_at", Moment, nullable=False),
        Column("origin", Text, nullable=False),  # live | import | arrived
        Column("actor", Text, nullable=False),
        Column("content", Text),  # canonical JSON of the fields; null once erased
        Column("context", Text),  # canonical JSON {slot@window: int}; null once erased
        Column("ticket_hash", BigInteger, nullable=False),  # keyed, uniform over 63 bits
    ),
    postgresql_partition_by="RANGE (as_of)",
)

decision_keys = Table(
    "decision_keys",
    metadata,
    Column("workflow", Text, primary_key=True),
    Column("ticket_id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("ordinal", Integer, primary_key=True),  # 1, and more when decided again on request
    Column("decision_id", Uuid, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    *_columns(
        Column("as_of", Moment, primary_key=True),
        Column("decision_id", Uuid, primary_key=True),  # version 7, its time is `as_of`
        Column("workflow", Text, nullable=False),
        Column("ticket_id", Text, nullable=False),
        Column("revision", Integer, nullable=False),
        Column("ordinal", Integer, nullable=False),
        Column("decided_at", Moment, nullable=False),
        Column("policy_hash", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("band", SmallInteger, nullable=False),
        Column("route", Text, nullable=False),  # auto | tiebreak | review
        Column("route_reason", Text, nullable=False),
        Column("is_tie", Boolean, nullable=False),
        Column("review_probability", Double, nullable=False),
        Column("rules_band", SmallInteger, nullable=False),
        Column("rules_points", BigInteger, nullable=False),
        Column("hard_floor", SmallInteger),
        Column("fired", Text),  # JSON [{rule, message, effect, values}]; null once erased
        Column("model_status", Text, nullable=False),  # scored | absent | failed
        Column("margin", Double),
        Column("score", Double),
        Column("model_band", SmallInteger),
        Column("base_value", Double),
        Column("contributions", LargeBinary),  # float64, little-endian, one a feature
        Column("errors", Text, nullable=False),  # JSON [{where, code}]
    ),
    Index(None, "workflow", "as_of", "decision_id"),
    postgresql_partition_by="RANGE (as_of)",
)

ml_shadow_scores = Table(
    "ml_shadow_scores",
    metadata,
    Column("as_of", Moment, primary_key=True),
    Column("workflow", Text, primary_key=True),
    Column("ticket_id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("policy_hash", Text, primary_key=True),
    Column("scored_at", Moment, nullable=False),
    Column("band", SmallInteger, nullable=False),
    Column("route", Text, nullable=False),
    Column("margin", Double),
    Column("score", Double),
    Column("hard_floor", SmallInteger),
    Column("rules_band", SmallInteger, nullable=False),
    Column("model_band", SmallInteger),
    Column("is_tie", Boolean, nullable=False),
    Column("seconds", Double, nullable=False),  # the ticket's share of its batch's time
    Column("fingerprint", Text, nullable=False),
    postgresql_partition_by="RANGE (as_of)",
)

outcomes = Table(
    "outcomes",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("ticket_id", Text, primary_key=True),
        Column("ordinal", Integer, primary_key=True),  # 1, 2, … a ticket, in order of knowledge
        Column("kind", Text, nullable=False),  # outcome | closed | acted
        Column("known_at", Moment, nullable=False),  # when Tiebreak may use it
        Column("given_at", Moment),  # when the sender says it was known
        Column("received_at", Moment, nullable=False),
        Column("actor", Text, nullable=False),
        Column("content", Text),  # canonical JSON of outcome fields; null once erased
        Column("content_hash", LargeBinary, nullable=False),  # the same content twice is one row
    ),
    CheckConstraint("kind IN ('outcome', 'closed', 'acted')", name="kind"),
    Index(None, "workflow", "known_at"),
)

ml_feedback = Table(
    "ml_feedback",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("ticket_id", Text, primary_key=True),
        Column("ordinal", Integer, primary_key=True),
        Column("reviewer", Text, nullable=False),
        Column("band", SmallInteger, nullable=False),
        Column("given_at", Moment, nullable=False),
        Column("received_at", Moment, nullable=False),
        Column("note", Text),
    ),
)

erasures = Table(
    "erasures",
    metadata,
    *_columns(
        Column("workflow", Text, primary_key=True),
        Column("ticket_id", Text, primary_key=True),
        Column("ordinal", Integer, primary_key=True),
        Column("erased_at", Moment, nullable=False),
        Column("actor", Text, nullable=False),
        Column("reason", Text, nullable=False),
        # 60 bytes an erased record: lane, seq and position of its leaf (`audit.seals.place`) and
        # SHA-256 of what is left of it; only a leaf named here counts as erased
        Column("places", LargeBinary, nullable=False),
    ),
)

# --- audit ---------------------------------------------------------------------------------

system_audit = Table(
    "system_audit",
    metadata,
    *_columns(
        Column("audit_id", Uuid, primary_key=True),
        Column("at", Moment, nullable=False),
        Column("actor", Text, nullable=False),
        Column("action", Text, nullable=False),  # e.g. workflow.loaded, key.created
        Column("subject", Text, nullable=False),
        Column("detail", Text, nullable=False),  # JSON, never personal data
    ),
    Index(None, "at"),
)

audit_lanes = Table(
    "audit_lanes",
    metadata,
    Column("lane", Uuid, primary_key=True),
    Column("writer", Text, nullable=False),
    Column("opened_at", Moment, nullable=False),
    comment="A lane is the seal chain of one writer.",
)

audit_seals = Table(
    "audit_seals",
    metadata,
    Column("lane", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True),  # 1, 2, … a lane
    Column("sealed_at", Moment, nullable=False),
    Column("leaves", LargeBinary, nullable=False),  # 32 bytes a record, by position
    Column("head", LargeBinary, nullable=False),  # MAC over the previous head and this seal
    Column("key_id", Text, nullable=False),
)
