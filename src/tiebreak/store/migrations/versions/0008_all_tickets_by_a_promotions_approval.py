"""A canary has at most half of the tickets; all of them only with what a promotion asks for.

A canary that went through its steps may be given all tickets, beside production that stays ready.
That asks for the approval of a promotion, and leaves the release where it stands.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The same table as `tiebreak.release.states.TRANSITIONS`; null: the state stays.
TRANSITIONS = """
CREATE OR REPLACE FUNCTION release_transitions()
RETURNS TABLE (kind text, allowed text[], becomes text)
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
    ('canary_switched', '{ready}', NULL),
    ('gated', '{canary,held,ready,shadow}', NULL),
    ('approved', '{canary,held,ready,shadow}', NULL),
    ('promoted', '{ready,retired,shadow}', 'production'),
    ('withdrawn', '{canary,draft,held,quarantined,ready,shadow,stopped}', 'withdrawn'),
    ('voided', '{canary,draft,held,quarantined,ready,shadow,stopped}', 'voided'),
    ('retired', '{production}', 'retired')
$$
"""

CHECK_CANARY = """
CREATE OR REPLACE FUNCTION check_canary_record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    candidate releases;
    policy policies;
    state text;
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
    state := release_state(NEW.release_id);
    IF NEW.percent > 50 THEN
        IF NEW.percent < 100 THEN
            PERFORM refuse_release('a canary of more than half of the tickets');
        END IF;
        IF state <> 'ready' THEN
            PERFORM refuse_release('all tickets for a canary that is not through its steps');
        END IF;
        IF NOT is_release_approved(
            NEW.release_id, 'promotion', NEW.production_seq, NULL, NEW.author) THEN
            PERFORM refuse_release('all tickets without an approval of promotion that stands');
        END IF;
        RETURN NEW;
    END IF;
    IF state NOT IN ('shadow', 'canary', 'held') THEN
        PERFORM refuse_release('the release cannot be a canary in its state');
    END IF;
    IF NOT is_release_approved(
        NEW.release_id, 'canary', NEW.production_seq, NULL, NEW.author) THEN
        PERFORM refuse_release('a canary without an approval that stands');
    END IF;
    RETURN NEW;
END $$
"""

CHECK_SWITCH = """
CREATE FUNCTION check_canary_switch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM (
            SELECT c.release_id, c.percent FROM canary_records c
            WHERE c.workflow = (SELECT workflow FROM releases r WHERE r.release_id = NEW.release_id)
            ORDER BY c.seq DESC LIMIT 1) newest
        WHERE newest.release_id = NEW.release_id AND newest.percent = 100) THEN
        PERFORM refuse_release('switched to a canary that does not decide all tickets');
    END IF;
    RETURN NEW;
END $$
"""

FUNCTIONS = {
    "release_transitions": TRANSITIONS,
    "check_canary_record": CHECK_CANARY,
    "check_canary_switch": CHECK_SWITCH,
}


def upgrade() -> None:
    """Replace what the triggers ask, and ask it of the new event."""
    for name, statement in FUNCTIONS.items():
        op.execute(statement)
        # So that nobody puts temporary tables in the place of what is asked here.
        op.execute(f"ALTER FUNCTION {name} SET search_path = public, pg_temp")
    # After `check_release_event` by name, which takes the lock.
    op.execute(
        "CREATE TRIGGER check_switch_event BEFORE INSERT ON release_events FOR EACH ROW "
        "WHEN (NEW.kind = 'canary_switched') EXECUTE FUNCTION check_canary_switch()"
    )
