"""The history's clock and probes as functions, and an admission's whole reading in one call."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Takes the workflow's history lock; the first tick of a workflow opens its clock.
TICK = """
CREATE FUNCTION history_tick(
    p_workflow text, p_at timestamptz,
    OUT last_as_of timestamptz, OUT history_generation int, OUT slots text[])
LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        UPDATE workflow_clocks c
        SET last_as_of = greatest(
            coalesce(p_at, clock_timestamp()), c.last_as_of + interval '1 microsecond')
        WHERE c.workflow = p_workflow
        RETURNING c.last_as_of, c.history_generation
        INTO history_tick.last_as_of, history_tick.history_generation;
        EXIT WHEN FOUND;
        INSERT INTO workflow_clocks (workflow, last_as_of, decided_through)
        VALUES (p_workflow, to_timestamp(0), to_timestamp(0)) ON CONFLICT DO NOTHING;
    END LOOP;
    slots := ARRAY(
        SELECT s.slot FROM history_slots s
        WHERE s.workflow = p_workflow AND s.generation = history_tick.history_generation
        ORDER BY s.entity, s.position);
END $$
"""

# The keys come as one value of 16 bytes each, which is much faster to send than an array. Probe i
# asks about `p_sizes[i]` of them from the one at `p_firsts[i]`, just before `p_at` less its
# window. Answers: how many entities each probe found, which of its keys they have, their totals.
PROBE = """
CREATE FUNCTION history_probe(
    p_workflow text, p_generation int, p_at timestamptz,
    p_keys bytea, p_firsts int[], p_sizes int[], p_windows_us bigint[],
    OUT counts int[], OUT places int[], OUT totals bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    WITH found AS (
        SELECT p.probe, place, array_send(h.totals) AS totals
        FROM unnest(p_firsts, p_sizes, p_windows_us)
            WITH ORDINALITY AS p (first, size, window_us, probe)
        CROSS JOIN generate_series(0, p.size - 1) AS place
        CROSS JOIN LATERAL (
            SELECT l.totals FROM history_log l
            WHERE l.workflow = p_workflow AND l.generation = p_generation
              AND l.entity_key = substr(p_keys, (p.first + place) * 16 + 1, 16)
              AND l.known_at < p_at - p.window_us * interval '1 microsecond'
            ORDER BY l.known_at DESC LIMIT 1) h)
    SELECT
        ARRAY(
            SELECT (SELECT count(*)::int FROM found f WHERE f.probe = i)
            FROM generate_subscripts(p_firsts, 1) AS i ORDER BY i),
        coalesce(array_agg(f.place ORDER BY f.probe, f.place), '{}'),
        coalesce(string_agg(f.totals, ''::bytea ORDER BY f.probe, f.place), ''::bytea)
    INTO history_probe.counts, history_probe.places, history_probe.totals
    FROM found f;
END $$
"""

# Each statement of a function that is not STABLE sees what was committed before it began, so what
# is read after the tick is what the holder of the lock before this one has left.
ADMISSION = """
CREATE FUNCTION admission_read(
    p_workflow text, p_at timestamptz, p_ids text[], p_revisions int[],
    p_keys bytea, p_firsts int[], p_sizes int[], p_windows_us bigint[],
    OUT last_as_of timestamptz, OUT history_generation int, OUT slots text[],
    OUT ids text[], OUT revisions int[], OUT content_hashes bytea[], OUT times timestamptz[],
    OUT counts int[], OUT places int[], OUT totals bytea)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT t.last_as_of, t.history_generation, t.slots FROM history_tick(p_workflow, p_at) t
    INTO admission_read.last_as_of, admission_read.history_generation, admission_read.slots;
    SELECT array_agg(i.ticket_id), array_agg(k.revision), array_agg(k.content_hash),
        array_agg(k.as_of)
    INTO ids, admission_read.revisions, content_hashes, times
    FROM unnest(p_ids, p_revisions) AS i (ticket_id, claimed)
    CROSS JOIN LATERAL (
        (SELECT * FROM ticket_keys l
         WHERE l.workflow = p_workflow AND l.ticket_id = i.ticket_id
         ORDER BY l.revision DESC LIMIT 1)
        UNION ALL
        SELECT * FROM ticket_keys c
        WHERE c.workflow = p_workflow AND c.ticket_id = i.ticket_id
          AND c.revision = i.claimed) k;
    SELECT h.counts, h.places, h.totals
    FROM history_probe(
        p_workflow, admission_read.history_generation, admission_read.last_as_of,
        p_keys, p_firsts, p_sizes, p_windows_us) h
    INTO admission_read.counts, admission_read.places, admission_read.totals;
END $$
"""


def upgrade() -> None:
    """Create the functions."""
    for statement in (TICK, PROBE, ADMISSION):
        op.execute(statement)
