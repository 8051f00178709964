"""Approvals do not outlive bad news, content fits its address, rollbacks are approved on record.

Checks are NOT VALID: append-only tables may hold rows from before, and what is stored stays.
"""

import sqlalchemy as sa
from alembic import op

from tiebreak.store.migrations import guards

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What a trigger reads is what the holder of the lock before it has left: in READ COMMITTED alone.
LOCK = """
CREATE OR REPLACE FUNCTION lock_releases(p_workflow text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM refuse_release('the transaction does not see what others committed');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('release:' || p_workflow, 0));
END $$
"""

IS_AUTHOR = """
CREATE FUNCTION is_policy_author(p_policy_hash text, p_base_hash text, p_person text)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
SELECT EXISTS (
    SELECT FROM policies p LEFT JOIN policies b ON b.policy_hash = p_base_hash
    WHERE p.policy_hash = p_policy_hash AND (
        p.author = p_person
        OR EXISTS (
            SELECT FROM workflow_versions v
            WHERE v.workflow = p.workflow AND v.author = p_person
              AND ((v.workflow_version = p.workflow_version
                    AND p.workflow_version IS DISTINCT FROM b.workflow_version)
                OR (v.rules_version = p.rules_version
                    AND p.rules_version IS DISTINCT FROM b.rules_version)))
        OR (p.bundle_digest IS DISTINCT FROM b.bundle_digest AND EXISTS (
            SELECT FROM ml_training_runs t
            WHERE t.workflow = p.workflow AND t.bundle_digest = p.bundle_digest
              AND t.author = p_person))))
$$
"""

IS_RELEASE_AUTHOR = """
CREATE FUNCTION is_release_author(p_release_id uuid, p_person text)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
SELECT EXISTS (
    SELECT FROM releases r LEFT JOIN release_records b
        ON b.workflow = r.workflow AND b.seq = r.base_seq
    WHERE r.release_id = p_release_id
      AND (r.author = p_person OR is_policy_author(r.policy_hash, b.policy_hash, p_person)))
$$
"""

# By the order of events, which are numbered under the lock; times are what their writer says.
EVIDENCE = """
CREATE FUNCTION release_evidence(p_release_id uuid, p_stage text)
RETURNS uuid LANGUAGE sql VOLATILE AS $$
SELECT g.evaluation_id
FROM release_events e JOIN gate_evaluations g
    ON g.release_id = e.release_id AND g.evaluation_id::text = e.detail::json ->> 'evaluation'
WHERE e.release_id = p_release_id AND e.kind = 'gated' AND g.stage = p_stage
  AND NOT EXISTS (
    SELECT FROM release_events b
    WHERE b.release_id = e.release_id AND b.seq > e.seq
      AND b.kind IN ('quarantined', 'shadow_stopped', 'canary_rolled_back'))
ORDER BY e.seq DESC LIMIT 1
$$
"""

IS_APPROVED = """
CREATE OR REPLACE FUNCTION is_release_approved(
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
      AND a.approver <> p_not_by AND NOT is_release_author(r.release_id, a.approver)
      AND a.expires_at > clock_timestamp()
      AND e.is_passed AND e.release_id = a.release_id AND e.stage = a.stage
      AND e.policy_hash = r.policy_hash AND e.production_seq = p_production_seq
      AND e.evaluation_id = release_evidence(p_release_id, p_stage))
$$
"""

CHECK_EVENT = """
CREATE OR REPLACE FUNCTION check_release_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF NEW.kind IN ('shadow_stopped', 'canary_held', 'canary_rolled_back', 'withdrawn')
        AND (NEW.detail::json ->> 'reason' ~ '\\S') IS NOT TRUE THEN
        PERFORM refuse_release(format('%s without a reason', NEW.kind));
    END IF;
    SELECT * INTO newest FROM release_records r
    WHERE r.workflow = candidate.workflow ORDER BY r.seq DESC LIMIT 1;
    SELECT * INTO canary FROM canary_records c
    WHERE c.workflow = candidate.workflow ORDER BY c.seq DESC LIMIT 1;
    IF NEW.kind = 'promoted' AND newest.release_id IS DISTINCT FROM NEW.release_id THEN
        PERFORM refuse_release('promoted without being in production');
    ELSIF NEW.kind = 'retired' AND newest.release_id IS NOT DISTINCT FROM NEW.release_id THEN
        PERFORM refuse_release('retired while being in production');
    ELSIF NEW.kind = 'gated' AND (
        NOT EXISTS (
            SELECT FROM gate_evaluations g WHERE g.release_id = NEW.release_id
              AND g.evaluation_id::text = NEW.detail::json ->> 'evaluation')
        OR EXISTS (
            SELECT FROM release_events e
            WHERE e.release_id = NEW.release_id AND e.kind = 'gated'
              AND e.detail::json ->> 'evaluation' = NEW.detail::json ->> 'evaluation')) THEN
        PERFORM refuse_release('gated without a new evaluation');
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

CHECK_APPROVAL = """
CREATE OR REPLACE FUNCTION check_release_approval() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
    evaluation gate_evaluations;
BEGIN
    SELECT * INTO candidate FROM releases r WHERE r.release_id = NEW.release_id;
    IF NOT FOUND THEN
        PERFORM refuse_release('there is no such release');
    END IF;
    PERFORM lock_releases(candidate.workflow);
    IF is_release_author(NEW.release_id, NEW.approver) THEN
        PERFORM refuse_release('an author approves');
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
    IF NEW.evaluation_id IS DISTINCT FROM release_evidence(NEW.release_id, NEW.stage) THEN
        PERFORM refuse_release('something happened since the gates were evaluated');
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

# Going back to what the newest record names is no change, unless that record was forged; whether
# it was, only who has the seal key can tell.
CHECK_RECORD = """
CREATE OR REPLACE FUNCTION check_release_record() RETURNS trigger LANGUAGE plpgsql AS $$
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
        IF NEW.release_id IS NOT NULL
            AND release_state(NEW.release_id) NOT IN ('production', 'retired') THEN
            PERFORM refuse_release('the release was never in production');
        END IF;
        IF NEW.kind = 'rollback' AND NOT EXISTS (
            SELECT FROM rollback_approvals a
            WHERE a.workflow = NEW.workflow AND a.production_seq = NEW.seq - 1
              AND a.policy_hash = NEW.policy_hash AND a.approver = NEW.approver) THEN
            PERFORM refuse_release('rolled back without an approval');
        END IF;
    ELSE
        PERFORM refuse_release('there is no such kind of record');
    END CASE;
    RETURN NEW;
END $$
"""

IS_ROLLBACK_AUTHOR = """
CREATE FUNCTION is_rollback_author(p_workflow text, p_policy_hash text, p_person text)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
SELECT EXISTS (
    SELECT FROM policies p WHERE p.policy_hash = p_policy_hash AND p.author = p_person)
    OR EXISTS (
    SELECT FROM release_records r JOIN releases m ON m.release_id = r.release_id
    WHERE r.workflow = p_workflow AND r.policy_hash = p_policy_hash AND m.author = p_person)
$$
"""

CHECK_ROLLBACK_APPROVAL = """
CREATE FUNCTION check_rollback_approval() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_releases(NEW.workflow);
    IF NEW.production_seq <> production_seq(NEW.workflow) THEN
        PERFORM refuse_release('production moved');
    END IF;
    IF NOT EXISTS (
        SELECT FROM release_records r
        WHERE r.workflow = NEW.workflow AND r.policy_hash = NEW.policy_hash) THEN
        PERFORM refuse_release('the policy was never in production');
    END IF;
    IF is_rollback_author(NEW.workflow, NEW.policy_hash, NEW.approver) THEN
        PERFORM refuse_release('an author approves');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_VERSION = """
CREATE FUNCTION check_workflow_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('workflow:' || NEW.workflow, 0));
    IF NEW.ordinal <> 1 + (SELECT coalesce(max(v.ordinal), 0) FROM workflow_versions v
                           WHERE v.workflow = NEW.workflow) THEN
        PERFORM refuse_release('the version does not follow the newest one');
    END IF;
    IF NEW.workflow_version <> encode(sha256(convert_to(NEW.config, 'UTF8')), 'hex')
        OR NEW.rules_version <> encode(sha256(convert_to(NEW.rules, 'UTF8')), 'hex') THEN
        PERFORM refuse_release('the version is not what its address says');
    END IF;
    RETURN NEW;
END $$
"""

# As `tiebreak.core.policy.PolicyParts.hash` writes the parts; a test proves both equal.
CHECK_POLICY = """
CREATE FUNCTION check_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.policy_hash <> encode(sha256(convert_to(
        '{"bundle_digest":' || coalesce(to_json(NEW.bundle_digest)::text, 'null')
        || ',"history_generation":' || NEW.history_generation
        || ',"rules_version":' || to_json(NEW.rules_version)
        || ',"tiebreak_version":' || coalesce(to_json(NEW.tiebreak_version)::text, 'null')
        || ',"workflow":' || to_json(NEW.workflow)
        || ',"workflow_version":' || to_json(NEW.workflow_version) || '}', 'UTF8')), 'hex') THEN
        PERFORM refuse_release('the policy is not what its address says');
    END IF;
    RETURN NEW;
END $$
"""

FUNCTIONS = {
    "lock_releases": LOCK,
    "is_policy_author": IS_AUTHOR,
    "is_release_author": IS_RELEASE_AUTHOR,
    "release_evidence": EVIDENCE,
    "is_release_approved": IS_APPROVED,
    "check_release_event": CHECK_EVENT,
    "check_release_approval": CHECK_APPROVAL,
    "check_release_record": CHECK_RECORD,
    "is_rollback_author": IS_ROLLBACK_AUTHOR,
    "check_rollback_approval": CHECK_ROLLBACK_APPROVAL,
    "check_workflow_version": CHECK_VERSION,
    "check_policy": CHECK_POLICY,
}
CHECKED = {
    "rollback_approvals": "check_rollback_approval",
    "workflow_versions": "check_workflow_version",
    "policies": "check_policy",
}
CHECKS = {
    "release_records": ("reason", "reason ~ '\\S'"),
    "releases": ("reason", "reason ~ '\\S'"),
    "workflow_versions": ("ordinal", "ordinal >= 1"),
}


def upgrade() -> None:
    """Replace what the triggers ask, and add what they did not ask."""
    op.create_table(
        "rollback_approvals",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("production_seq", sa.Integer(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("seal_seq", sa.BigInteger(), nullable=False),
        sa.Column("seal_position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy_hash"],
            ["policies.policy_hash"],
            name=op.f("rollback_approvals_policy_hash_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["approver"], ["persons.person"], name=op.f("rollback_approvals_approver_fkey")
        ),
        sa.PrimaryKeyConstraint(
            "workflow",
            "production_seq",
            "policy_hash",
            "approver",
            name=op.f("rollback_approvals_pkey"),
        ),
    )
    for table, (name, condition) in CHECKS.items():
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_{name}_check CHECK ({condition}) NOT VALID"
        )
    for name, statement in FUNCTIONS.items():
        op.execute(statement)
        # So that nobody puts temporary tables in the place of what is asked here.
        op.execute(f"ALTER FUNCTION {name} SET search_path = public, pg_temp")
    for table, function in CHECKED.items():
        op.execute(
            f"CREATE TRIGGER {function} BEFORE INSERT ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for statement in guards.protect("rollback_approvals"):
        op.execute(statement)
