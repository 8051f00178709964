"""Totals before windows begin, read ahead; the probes' answer in one pass."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# As before, but its answer tells of each row found which probe and which of its keys it is for.
PROBE = """
CREATE FUNCTION history_probe(
    p_workflow text, p_generation int, p_at timestamptz,
    p_keys bytea, p_firsts int[], p_sizes int[], p_windows_us bigint[],
    OUT probes int[], OUT places int[], OUT totals bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT coalesce(array_agg(p.probe::int), '{}'), coalesce(array_agg(place), '{}'),
        coalesce(string_agg(array_send(h.totals), ''::bytea), ''::bytea)
    INTO history_probe.probes, history_probe.places, history_probe.totals
    FROM unnest(p_firsts, p_sizes, p_windows_us)
        WITH ORDINALITY AS p (first, size, window_us, probe)
    CROSS JOIN generate_series(0, p.size - 1) AS place
    CROSS JOIN LATERAL (
        SELECT l.totals FROM history_log l
        WHERE l.workflow = p_workflow AND l.generation = p_generation
          AND l.entity_key = substr(p_keys, (p.first + place) * 16 + 1, 16)
          AND l.known_at < p_at - p.window_us * interval '1 microsecond'
        ORDER BY l.known_at DESC LIMIT 1) h;
END $$
"""

# The newest row before `look`, which lies a little after `begin`, holds for windows that begin
# between it and `look`. Only where the log has rows between `begin` and `look` more is read.
STARTS = """
CREATE FUNCTION history_starts(
    p_workflow text, p_keys bytea, p_firsts int[], p_sizes int[],
    p_begins timestamptz[], p_looks timestamptz[],
    OUT generation int, OUT clock timestamptz, OUT probes int[], OUT places int[],
    OUT has_row boolean[], OUT after timestamptz[], OUT until timestamptz[], OUT totals bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT c.history_generation, c.last_as_of FROM workflow_clocks c WHERE c.workflow = p_workflow
    INTO history_starts.generation, history_starts.clock;
    SELECT coalesce(array_agg(p.probe::int), '{}'), coalesce(array_agg(place), '{}'),
        coalesce(array_agg(is_last OR earlier.known_at IS NOT NULL), '{}'),
        coalesce(array_agg(CASE WHEN is_last THEN last.known_at ELSE earlier.known_at END), '{}'),
        coalesce(array_agg(CASE WHEN is_last THEN p.look ELSE later.known_at END), '{}'),
        coalesce(string_agg(
            array_send(CASE WHEN is_last THEN last.totals ELSE earlier.totals END), ''::bytea),
            ''::bytea)
    INTO history_starts.probes, history_starts.places, history_starts.has_row,
        history_starts.after, history_starts.until, history_starts.totals
    FROM unnest(p_firsts, p_sizes, p_begins, p_looks)
        WITH ORDINALITY AS p (first, size, begin, look, probe)
    CROSS JOIN generate_series(0, p.size - 1) AS place
    CROSS JOIN LATERAL (SELECT substr(p_keys, (p.first + place) * 16 + 1, 16)) AS k (key)
    CROSS JOIN LATERAL (
        SELECT l.known_at, l.totals FROM history_log l
        WHERE l.workflow = p_workflow AND l.generation = history_starts.generation
          AND l.entity_key = k.key AND l.known_at < p.look
        ORDER BY l.known_at DESC LIMIT 1) AS last
    CROSS JOIN LATERAL (SELECT last.known_at < p.begin) AS s (is_last)
    LEFT JOIN LATERAL (
        SELECT l.known_at, l.totals FROM history_log l
        WHERE NOT is_last AND l.workflow = p_workflow AND l.generation = history_starts.generation
          AND l.entity_key = k.key AND l.known_at < p.begin
        ORDER BY l.known_at DESC LIMIT 1) AS earlier ON true
    LEFT JOIN LATERAL (
        SELECT l.known_at FROM history_log l
        WHERE NOT is_last AND l.workflow = p_workflow AND l.generation = history_starts.generation
          AND l.entity_key = k.key AND l.known_at >= p.begin
        ORDER BY l.known_at LIMIT 1) AS later ON true;
END $$
"""

# Tickets that are new, as most are, cost one look at all of them.
ADMISSION = """
CREATE FUNCTION admission_read(
    p_workflow text, p_at timestamptz, p_ids text[], p_revisions int[],
    p_keys bytea, p_firsts int[], p_sizes int[], p_windows_us bigint[],
    OUT last_as_of timestamptz, OUT history_generation int, OUT slots text[],
    OUT ids text[], OUT revisions int[], OUT content_hashes bytea[], OUT times timestamptz[],
    OUT probes int[], OUT places int[], OUT totals bytea)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT t.last_as_of, t.history_generation, t.slots FROM history_tick(p_workflow, p_at) t
    INTO admission_read.last_as_of, admission_read.history_generation, admission_read.slots;
    IF EXISTS (
        SELECT FROM ticket_keys k WHERE k.workflow = p_workflow AND k.ticket_id = ANY (p_ids))
    THEN
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
    END IF;
    SELECT h.probes, h.places, h.totals
    FROM history_probe(
        p_workflow, admission_read.history_generation, admission_read.last_as_of,
        p_keys, p_firsts, p_sizes, p_windows_us) h
    INTO admission_read.probes, admission_read.places, admission_read.totals;
END $$
"""


def upgrade() -> None:
    """Replace the functions whose answers change, and create the new one."""
    op.execute("DROP FUNCTION admission_read")
    op.execute("DROP FUNCTION history_probe")
    for statement in (PROBE, STARTS, ADMISSION):
        op.execute(statement)
