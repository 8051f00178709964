"""A probe of the newest totals may be told since when there is a row."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# As before; but a scan backwards that begins with the newest row of a busy entity looks at all
# rows of that entity that stand in the same page of the index. With `p_since_us`, a time (null:
# not known) at which each key is thought to have a row, it ends there. Where there is none since
# then, the probe is made without it: the answer never depends on it.
PROBE = """
CREATE FUNCTION history_probe(
    p_workflow text, p_generation int, p_at timestamptz,
    p_keys bytea, p_since_us bigint[], p_firsts int[], p_sizes int[], p_windows_us bigint[],
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
        (SELECT l.totals FROM history_log l
         WHERE l.workflow = p_workflow AND l.generation = p_generation
           AND l.entity_key = substr(p_keys, (p.first + place) * 16 + 1, 16)
           AND l.known_at < p_at
           AND l.known_at >= CASE WHEN p.window_us = 0 THEN 'epoch'::timestamptz
               + p_since_us[p.first + place + 1] * interval '1 microsecond' END
         ORDER BY l.known_at DESC LIMIT 1)
        UNION ALL
        (SELECT l.totals FROM history_log l
         WHERE l.workflow = p_workflow AND l.generation = p_generation
           AND l.entity_key = substr(p_keys, (p.first + place) * 16 + 1, 16)
           AND l.known_at < p_at - p.window_us * interval '1 microsecond'
         ORDER BY l.known_at DESC LIMIT 1)
        LIMIT 1) h;
END $$
"""

ADMISSION = """
CREATE FUNCTION admission_read(
    p_workflow text, p_at timestamptz, p_ids text[], p_revisions int[],
    p_keys bytea, p_since_us bigint[], p_firsts int[], p_sizes int[], p_windows_us bigint[],
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
        p_keys, p_since_us, p_firsts, p_sizes, p_windows_us) h
    INTO admission_read.probes, admission_read.places, admission_read.totals;
END $$
"""


def upgrade() -> None:
    """Replace the functions, which take one argument more."""
    op.execute("DROP FUNCTION admission_read")
    op.execute("DROP FUNCTION history_probe")
    for statement in (PROBE, ADMISSION):
        op.execute(statement)
