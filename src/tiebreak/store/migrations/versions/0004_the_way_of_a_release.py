"""The way of a release: candidates, what happened to them, gates, approvals, canaries, demotions.

Every trigger here takes the workflow's release lock first, and the statements of a function that is
not STABLE see what was committed before they began: what a trigger reads is what the holder of the
lock before it has left.
"""

import sqlalchemy as sa
from alembic import op

from tiebreak.store.migrations import guards

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "releases",
    "release_events",
    "gate_evaluations",
    "release_approvals",
    "canary_records",
    "release_countersignatures",
    "shadow_progress",
)

REFUSE = """
CREATE FUNCTION refuse_release(reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused: %', reason USING ERRCODE = 'insufficient_privilege';
END $$
"""

LOCK = """
CREATE FUNCTION lock_releases(p_workflow text) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock(hashtextextended('release:' || p_workflow, 0));
END
"""

# The same table as `tiebreak.release.states.TRANSITIONS`; null: the state stays.
TRANSITIONS = """
CREATE FUNCTION release_transitions() RETURNS TABLE (kind text, allowed text[], becomes text)
LANGUAGE sql IMMUTABLE AS $$
VALUES
    ('proposed', '{new}'::text[], 'draft'),
    ('shadow_started', '{draft,quarantined,stopped}', 'shadow'),
    ('shadow_stopped', '{shadow}', 'stopped'),
    ('quarantined', '{canary,held,ready,shadow}', 'quarantined'),
    ('canary_started', '{shadow}', 'canary'),
    ('canary_step', '{canary,held}', 'canary'),
    ('canary_held', '{canary}', 'held'),
    ('canary_rolled_back', '{canary,held,ready}', 'stopped'),
    ('canary_finished', '{canary,held}', 'ready'),
    ('gated', '{canary,held,ready,shadow}', NULL),
    ('approved', '{canary,held,ready,shadow}', NULL),
    ('promoted', '{ready,retired,shadow}', 'production'),
    ('withdrawn', '{canary,draft,held,quarantined,ready,shadow,stopped}', 'withdrawn'),
    ('voided', '{canary,draft,held,quarantined,ready,shadow,stopped}', 'voided'),
    ('retired', '{production}', 'retired')
$$
"""

STATE = """
CREATE FUNCTION release_state(p_release_id uuid) RETURNS text LANGUAGE sql VOLATILE AS $$
SELECT coalesce((
    SELECT t.becomes FROM release_events e JOIN release_transitions() t ON t.kind = e.kind
    WHERE e.release_id = p_release_id AND t.becomes IS NOT NULL
    ORDER BY e.seq DESC LIMIT 1), 'new')
$$
"""

PRODUCTION = """
CREATE FUNCTION production_seq(p_workflow text) RETURNS int LANGUAGE sql VOLATILE AS $$
SELECT coalesce(max(seq), 0) FROM release_records WHERE workflow = p_workflow
$$
"""

# Approvals of exactly this policy against exactly this production, by somebody else.
IS_APPROVED = """
CREATE FUNCTION is_release_approved(
    p_release_id uuid, p_stage text, p_production_seq int, p_by text, p_not_by text)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
SELECT EXISTS (
    SELECT FROM release_approvals a
    JOIN releases r ON r.release_id = a.release_id
    JOIN gate_evaluations e ON e.evaluation_id = a.evaluation_id
    WHERE a.release_id = p_release_id AND a.stage = p_stage
      AND a.policy_hash = r.policy_hash AND a.production_seq = p_production_seq
      AND r.base_seq = p_production_seq
      AND a.approver = coalesce(p_by, a.approver)
      AND a.approver <> p_not_by AND a.approver <> r.author
      AND a.expires_at > clock_timestamp()
      AND e.is_passed AND e.release_id = a.release_id AND e.stage = a.stage
      AND e.policy_hash = r.policy_hash AND e.production_seq = p_production_seq)
$$
"""

CHECK_RELEASE = """
CREATE FUNCTION check_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_releases(NEW.workflow);
    IF NEW.base_seq <> production_seq(NEW.workflow) THEN
        PERFORM refuse_release('the release is compared with what is not in production');
    END IF;
    IF NOT EXISTS (SELECT FROM policies p
                   WHERE p.policy_hash = NEW.policy_hash AND p.workflow = NEW.workflow) THEN
        PERFORM refuse_release('the policy is of another workflow');
    END IF;
    IF NEW.backtest_id !~ '^[0-9a-f]{64}$' THEN
        PERFORM refuse_release('the release names no backtest');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_EVENT = """
CREATE FUNCTION check_release_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
    newest release_records;
    canary canary_records;
    transition record;
    state text;
BEGIN
    SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
    IF NOT FOUND THEN
        PERFORM refuse_release('there is no such release');
    END IF;
    PERFORM lock_releases(candidate.workflow);
    IF NEW.seq <> 1 + (SELECT coalesce(max(e.seq), 0) FROM release_events e
                       WHERE e.release_id = NEW.release_id) THEN
        PERFORM refuse_release('the event does not follow the newest one');
    END IF;
    state := release_state(NEW.release_id);
    SELECT * INTO transition FROM release_transitions() t WHERE t.kind = NEW.kind;
    IF transition.kind IS NULL OR NOT state = ANY (transition.allowed) THEN
        PERFORM refuse_release(format('%s in the state %s', NEW.kind, state));
    END IF;
    SELECT * INTO newest FROM release_records r
    WHERE r.workflow = candidate.workflow ORDER BY r.seq DESC LIMIT 1;
    SELECT * INTO canary FROM canary_records c
    WHERE c.workflow = candidate.workflow ORDER BY c.seq DESC LIMIT 1;
    IF NEW.kind = 'promoted' AND newest.release_id IS DISTINCT FROM NEW.release_id THEN
        PERFORM refuse_release('promoted without being in production');
    ELSIF NEW.kind = 'retired' AND newest.release_id IS NOT DISTINCT FROM NEW.release_id THEN
        PERFORM refuse_release('retired while being in production');
    ELSIF NEW.kind = 'gated' AND NOT EXISTS (
        SELECT FROM gate_evaluations e WHERE e.release_id = NEW.release_id) THEN
        PERFORM refuse_release('gated without an evaluation');
    ELSIF NEW.kind = 'approved' AND NOT EXISTS (
        SELECT FROM release_approvals a WHERE a.release_id = NEW.release_id) THEN
        PERFORM refuse_release('approved without an approval');
    ELSIF NEW.kind IN ('canary_started', 'canary_step')
        AND (canary.release_id = NEW.release_id AND canary.percent > 0) IS NOT TRUE THEN
        PERFORM refuse_release('a canary that decides nothing');
    ELSIF coalesce(transition.becomes, state) NOT IN ('canary', 'held', 'ready')
        AND (canary.release_id = NEW.release_id AND canary.percent > 0) IS TRUE
        AND transition.becomes IS NOT NULL THEN
        PERFORM refuse_release('its canary still decides');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_EVALUATION = """
CREATE FUNCTION check_gate_evaluation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
BEGIN
    SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
    IF NOT FOUND THEN
        PERFORM refuse_release('there is no such release');
    END IF;
    PERFORM lock_releases(candidate.workflow);
    IF NEW.policy_hash <> candidate.policy_hash THEN
        PERFORM refuse_release('the evaluation is of another policy');
    END IF;
    IF NEW.production_seq <> candidate.base_seq
        OR NEW.production_seq <> production_seq(candidate.workflow) THEN
        PERFORM refuse_release('production moved');
    END IF;
    IF NOT release_state(NEW.release_id) = ANY (
        SELECT unnest(t.allowed) FROM release_transitions() t WHERE t.kind = 'gated') THEN
        PERFORM refuse_release('the release is not at its gates');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_APPROVAL = """
CREATE FUNCTION check_release_approval() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
    evaluation gate_evaluations;
BEGIN
    SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
    IF NOT FOUND THEN
        PERFORM refuse_release('there is no such release');
    END IF;
    PERFORM lock_releases(candidate.workflow);
    IF NEW.approver = candidate.author THEN
        PERFORM refuse_release('the author approves');
    END IF;
    IF NEW.policy_hash <> candidate.policy_hash THEN
        PERFORM refuse_release('the approval is of another policy');
    END IF;
    SELECT * INTO evaluation FROM gate_evaluations e WHERE e.evaluation_id = NEW.evaluation_id;
    IF (evaluation.release_id = NEW.release_id AND evaluation.stage = NEW.stage
        AND evaluation.is_passed AND evaluation.policy_hash = NEW.policy_hash
        AND evaluation.production_seq = NEW.production_seq) IS NOT TRUE THEN
        PERFORM refuse_release('no gates passed that the approval is about');
    END IF;
    IF EXISTS (SELECT FROM gate_evaluations e
               WHERE e.release_id = NEW.release_id AND e.stage = NEW.stage
                 AND e.evaluated_at > evaluation.evaluated_at) THEN
        PERFORM refuse_release('the gates were evaluated again since');
    END IF;
    IF NEW.production_seq <> production_seq(candidate.workflow) THEN
        PERFORM refuse_release('production moved');
    END IF;
    IF NEW.expires_at > clock_timestamp() + interval '31 days' THEN
        PERFORM refuse_release('an approval stands for a month at most');
    END IF;
    IF NOT release_state(NEW.release_id) = ANY (
        SELECT unnest(t.allowed) FROM release_transitions() t WHERE t.kind = 'approved') THEN
        PERFORM refuse_release('the release cannot be approved in its state');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_RECORD = """
CREATE FUNCTION check_release_record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    newest release_records;
    policy policies;
    candidate releases;
BEGIN
    PERFORM lock_releases(NEW.workflow);
    SELECT * INTO newest FROM release_records r
    WHERE r.workflow = NEW.workflow ORDER BY r.seq DESC LIMIT 1;
    IF NEW.seq <> coalesce(newest.seq, 0) + 1 THEN
        PERFORM refuse_release('production moved');
    END IF;
    SELECT * INTO policy FROM policies p WHERE p.policy_hash = NEW.policy_hash;
    IF (policy.workflow = NEW.workflow) IS NOT TRUE
        OR policy.bundle_digest IS DISTINCT FROM NEW.bundle_digest THEN
        PERFORM refuse_release('the policy is of another workflow or bundle');
    END IF;
    IF NEW.kind IS NULL THEN
        PERFORM refuse_release('the record does not say how it came about');
    END IF;
    IF NEW.release_id IS NOT NULL THEN
        SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
        IF (candidate.workflow = NEW.workflow AND candidate.policy_hash = NEW.policy_hash)
            IS NOT TRUE THEN
            PERFORM refuse_release('the release is of another policy');
        END IF;
    END IF;
    CASE NEW.kind
    WHEN 'install' THEN
        IF newest.seq IS NOT NULL THEN
            PERFORM refuse_release('a policy is in production already');
        END IF;
        IF NEW.release_id IS NOT NULL THEN
            PERFORM refuse_release('a release is promoted, not installed');
        END IF;
    WHEN 'promote' THEN
        IF NEW.release_id IS NULL THEN
            PERFORM refuse_release('promoted without a release');
        END IF;
        IF release_state(NEW.release_id) NOT IN ('shadow', 'ready') THEN
            PERFORM refuse_release('the release cannot be promoted in its state');
        END IF;
        IF NOT is_release_approved(
            NEW.release_id, 'promotion', NEW.seq - 1, NEW.approver, NEW.author) THEN
            PERFORM refuse_release('promoted without an approval that stands');
        END IF;
    WHEN 'rollback', 'demote' THEN
        IF NEW.policy_hash = newest.policy_hash THEN
            PERFORM refuse_release('this policy is in production');
        END IF;
        IF NOT EXISTS (
            SELECT FROM release_records r JOIN policies p ON p.policy_hash = r.policy_hash
            WHERE r.workflow = NEW.workflow AND (
                p.policy_hash = NEW.policy_hash
                OR (NEW.kind = 'demote' AND policy.bundle_digest IS NULL
                    AND p.workflow_version = policy.workflow_version
                    AND p.rules_version = policy.rules_version
                    AND (policy.tiebreak_version IS NULL
                         OR p.tiebreak_version = policy.tiebreak_version)))) THEN
            PERFORM refuse_release('the policy was never in production');
        END IF;
        IF NEW.release_id IS NOT NULL AND release_state(NEW.release_id) <> 'retired' THEN
            PERFORM refuse_release('the release was never in production');
        END IF;
    ELSE
        PERFORM refuse_release('there is no such kind of record');
    END CASE;
    RETURN NEW;
END $$
"""

CHECK_CANARY = """
CREATE FUNCTION check_canary_record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
    policy policies;
BEGIN
    PERFORM lock_releases(NEW.workflow);
    IF NEW.seq <> 1 + (SELECT coalesce(max(c.seq), 0) FROM canary_records c
                       WHERE c.workflow = NEW.workflow) THEN
        PERFORM refuse_release('the canary moved');
    END IF;
    SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
    IF (candidate.workflow = NEW.workflow AND candidate.policy_hash = NEW.policy_hash)
        IS NOT TRUE THEN
        PERFORM refuse_release('the release is of another policy');
    END IF;
    SELECT * INTO policy FROM policies p WHERE p.policy_hash = NEW.policy_hash;
    IF policy.bundle_digest IS DISTINCT FROM NEW.bundle_digest THEN
        PERFORM refuse_release('the policy is of another bundle');
    END IF;
    IF NEW.percent = 0 THEN
        RETURN NEW;
    END IF;
    IF NEW.production_seq <> production_seq(NEW.workflow) THEN
        PERFORM refuse_release('production moved');
    END IF;
    IF NOT EXISTS (SELECT FROM persons p WHERE p.person = NEW.author) THEN
        PERFORM refuse_release('nobody answers for the canary');
    END IF;
    IF release_state(NEW.release_id) NOT IN ('shadow', 'canary', 'held') THEN
        PERFORM refuse_release('the release cannot be a canary in its state');
    END IF;
    IF NOT is_release_approved(
        NEW.release_id, 'canary', NEW.production_seq, NULL, NEW.author) THEN
        PERFORM refuse_release('a canary without an approval that stands');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_COUNTERSIGNATURE = """
CREATE FUNCTION check_countersignature() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM release_records r
        WHERE r.workflow = NEW.workflow AND r.seq = NEW.seq AND r.kind = 'demote'
          AND r.author <> NEW.signer) THEN
        PERFORM refuse_release('no demotion by somebody else');
    END IF;
    RETURN NEW;
END $$
"""

NOTIFY = """
CREATE FUNCTION notify_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'release_events' THEN
        PERFORM pg_notify('tiebreak_release', r.workflow)
        FROM releases r WHERE r.release_id = NEW.release_id;
    ELSE
        PERFORM pg_notify('tiebreak_release', NEW.workflow);
    END IF;
    RETURN NULL;
END $$
"""

FUNCTIONS = {
    "refuse_release": REFUSE,
    "lock_releases": LOCK,
    "release_transitions": TRANSITIONS,
    "release_state": STATE,
    "production_seq": PRODUCTION,
    "is_release_approved": IS_APPROVED,
    "check_release": CHECK_RELEASE,
    "check_release_event": CHECK_EVENT,
    "check_gate_evaluation": CHECK_EVALUATION,
    "check_release_approval": CHECK_APPROVAL,
    "check_release_record": CHECK_RECORD,
    "check_canary_record": CHECK_CANARY,
    "check_countersignature": CHECK_COUNTERSIGNATURE,
    "notify_release": NOTIFY,
}

CHECKED = {
    "releases": "check_release",
    "release_events": "check_release_event",
    "gate_evaluations": "check_gate_evaluation",
    "release_approvals": "check_release_approval",
    "release_records": "check_release_record",
    "canary_records": "check_canary_record",
    "release_countersignatures": "check_countersignature",
}
TOLD = ("release_records", "canary_records", "release_events")


def _seal():
    return [
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
    ]


def _refers(table, column, to):
    return sa.ForeignKeyConstraint([column], [to], name=op.f(f"{table}_{column}_fkey"))


def _tables() -> None:
    op.create_table(
        "releases",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("base_seq", sa.Integer(), nullable=False),
        sa.Column("backtest_id", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *_seal(),
        _refers("releases", "policy_hash", "policies.policy_hash"),
        _refers("releases", "author", "persons.person"),
        sa.PrimaryKeyConstraint("release_id", name=op.f("releases_pkey")),
    )
    op.create_table(
        "release_events",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        *_seal(),
        _refers("release_events", "release_id", "releases.release_id"),
        sa.PrimaryKeyConstraint("release_id", "seq", name=op.f("release_events_pkey")),
    )
    op.create_table(
        "gate_evaluations",
        sa.Column("evaluation_id", sa.Uuid(), nullable=False),
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("production_seq", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_passed", sa.Boolean(), nullable=False),
        sa.Column("results", sa.Text(), nullable=False),
        *_seal(),
        sa.CheckConstraint(
            "stage IN ('canary', 'promotion')", name=op.f("gate_evaluations_stage_check")
        ),
        _refers("gate_evaluations", "release_id", "releases.release_id"),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("gate_evaluations_pkey")),
    )
    op.create_table(
        "release_approvals",
        sa.Column("evaluation_id", sa.Uuid(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("production_seq", sa.Integer(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        *_seal(),
        sa.CheckConstraint(
            "stage IN ('canary', 'promotion')", name=op.f("release_approvals_stage_check")
        ),
        _refers("release_approvals", "evaluation_id", "gate_evaluations.evaluation_id"),
        _refers("release_approvals", "approver", "persons.person"),
        _refers("release_approvals", "release_id", "releases.release_id"),
        sa.PrimaryKeyConstraint("evaluation_id", "approver", name=op.f("release_approvals_pkey")),
    )
    op.create_table(
        "canary_records",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=True),
        sa.Column("production_seq", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        *_seal(),
        sa.CheckConstraint("percent BETWEEN 0 AND 100", name=op.f("canary_records_percent_check")),
        _refers("canary_records", "release_id", "releases.release_id"),
        sa.PrimaryKeyConstraint("workflow", "seq", name=op.f("canary_records_pkey")),
    )
    op.create_table(
        "release_countersignatures",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        *_seal(),
        sa.ForeignKeyConstraint(
            ["workflow", "seq"],
            ["release_records.workflow", "release_records.seq"],
            name=op.f("release_countersignatures_workflow_fkey"),
        ),
        _refers("release_countersignatures", "signer", "persons.person"),
        sa.PrimaryKeyConstraint("workflow", "seq", name=op.f("release_countersignatures_pkey")),
    )
    op.create_table(
        "shadow_progress",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("through", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scored", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        _refers("shadow_progress", "release_id", "releases.release_id"),
        sa.PrimaryKeyConstraint("release_id", name=op.f("shadow_progress_pkey")),
        comment="How far candidates have scored in shadow.",
    )


def _columns() -> None:
    # `kind` stays null in records from before, whose seals and MACs know no kind.
    op.add_column("release_records", sa.Column("kind", sa.Text(), nullable=True))
    op.add_column("release_records", sa.Column("release_id", sa.Uuid(), nullable=True))
    op.alter_column("release_records", "approver", nullable=True)
    op.create_foreign_key(
        op.f("release_records_release_id_fkey"),
        "release_records",
        "releases",
        ["release_id"],
        ["release_id"],
    )
    op.create_check_constraint(
        op.f("release_records_kind_check"),
        "release_records",
        "kind IN ('install', 'promote', 'rollback', 'demote')",
    )
    op.create_check_constraint(
        op.f("release_records_approver_check"),
        "release_records",
        "(approver IS NULL) = (coalesce(kind, 'install') = 'demote')",
    )
    # Nothing has written shadow scores before.
    for name, kind, is_nullable in (
        ("hard_floor", sa.SmallInteger(), True),
        ("rules_band", sa.SmallInteger(), False),
        ("model_band", sa.SmallInteger(), True),
        ("is_tie", sa.Boolean(), False),
        ("seconds", sa.Double(), False),
        ("fingerprint", sa.Text(), False),
    ):
        op.add_column("ml_shadow_scores", sa.Column(name, kind, nullable=is_nullable))


def upgrade() -> None:
    """Create the tables, what they refuse, and what they tell."""
    _tables()
    _columns()
    for name, statement in FUNCTIONS.items():
        op.execute(statement)
        # So that nobody puts temporary tables in the place of what is asked here.
        op.execute(f"ALTER FUNCTION {name} SET search_path = public, pg_temp")
    for table, function in CHECKED.items():
        op.execute(
            f"CREATE TRIGGER {function} BEFORE INSERT ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in TOLD:
        op.execute(
            f"CREATE TRIGGER notify_release AFTER INSERT ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION notify_release()"
        )
    for table in TABLES:
        for statement in guards.protect(table):
            op.execute(statement)
