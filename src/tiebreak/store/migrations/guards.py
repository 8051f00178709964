"""What keeps append-only tables append-only, as SQL that migrations run.

Privileges stop the app role; the triggers here stop the owner's own mistakes. The one way to
change a stored record is `erase_ticket`, which can only turn personal content into nulls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tiebreak.store.roles import APP, READONLY

MUTABLE: Final = frozenset(
    {"workflow_clocks", "history_builds", "shadow_progress", "training_turns"}
)
"""The tables that are not append-only; every other table is."""

ERASABLE: Final = {
    "tickets": ("content", "context", "salt"),
    "outcomes": ("content", "salt"),
    "decisions": ("fired", "salt"),
    "ml_feedback": ("note", "salt"),
}
"""The columns that erasure turns into nulls."""

REFUSE_CHANGE: Final = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    erasable text[] := TG_ARGV;
BEGIN
    IF TG_OP = 'UPDATE' AND cardinality(erasable) > 0
       AND current_setting('tiebreak.erasing', true) = pg_current_xact_id()::text
    THEN
        IF to_jsonb(NEW) = to_jsonb(OLD)
            || (SELECT jsonb_object_agg(name, NULL::text) FROM unnest(erasable) AS name)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of the append-only table % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$
"""

REQUIRE_TOMBSTONE: Final = """
CREATE FUNCTION require_tombstone() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM erasures e
        WHERE e.workflow = NEW.workflow AND e.ticket_id = NEW.ticket_id
          AND e.xmin = pg_current_xact_id()::xid)
    THEN
        RAISE EXCEPTION 'a ticket of % is erased without a row in erasures', NEW.workflow
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$
"""

# The first 48 bits of a UUID of version 7 are its milliseconds; the range is one wider each side.
DECISION_MOMENT: Final = """
CREATE FUNCTION decision_moment(decision_id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE
RETURN 'epoch'::timestamptz + interval '1 millisecond'
    * ('x' || left(translate(decision_id::text, '-', ''), 12))::bit(48)::bigint
"""

# A decision's id is made from `as_of`, so it names the partition. Should an id not be, all
# partitions are searched: slow, but nothing stays behind.
ERASE_TICKET: Final = """
CREATE FUNCTION erase_ticket(of_workflow text, of_ticket_id text) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    erased bigint := 0;
    changed bigint;
BEGIN
    PERFORM set_config('tiebreak.erasing', pg_current_xact_id()::text, true);

    UPDATE tickets t SET content = NULL, context = NULL, salt = NULL
    FROM ticket_keys k
    WHERE k.workflow = of_workflow AND k.ticket_id = of_ticket_id
      AND (t.as_of, t.workflow, t.ticket_id, t.revision)
          = (k.as_of, k.workflow, k.ticket_id, k.revision)
      AND num_nonnulls(t.content, t.context, t.salt) > 0;
    GET DIAGNOSTICS changed = ROW_COUNT;
    erased := erased + changed;

    UPDATE outcomes SET content = NULL, salt = NULL
    WHERE workflow = of_workflow AND ticket_id = of_ticket_id
      AND num_nonnulls(content, salt) > 0;
    GET DIAGNOSTICS changed = ROW_COUNT;
    erased := erased + changed;

    UPDATE ml_feedback SET note = NULL, salt = NULL
    WHERE workflow = of_workflow AND ticket_id = of_ticket_id
      AND num_nonnulls(note, salt) > 0;
    GET DIAGNOSTICS changed = ROW_COUNT;
    erased := erased + changed;

    UPDATE decisions d SET fired = NULL, salt = NULL
    FROM decision_keys k
    WHERE k.workflow = of_workflow AND k.ticket_id = of_ticket_id
      AND d.decision_id = k.decision_id
      AND d.as_of >= decision_moment(k.decision_id) - interval '1 millisecond'
      AND d.as_of < decision_moment(k.decision_id) + interval '2 milliseconds'
      AND num_nonnulls(d.fired, d.salt) > 0;
    GET DIAGNOSTICS changed = ROW_COUNT;
    erased := erased + changed;

    IF EXISTS (
        SELECT FROM decision_keys k
        WHERE k.workflow = of_workflow AND k.ticket_id = of_ticket_id AND NOT EXISTS (
            SELECT FROM decisions d
            WHERE d.decision_id = k.decision_id
              AND d.as_of >= decision_moment(k.decision_id) - interval '1 millisecond'
              AND d.as_of < decision_moment(k.decision_id) + interval '2 milliseconds'))
    THEN
        UPDATE decisions SET fired = NULL, salt = NULL
        WHERE workflow = of_workflow AND ticket_id = of_ticket_id
          AND num_nonnulls(fired, salt) > 0;
        GET DIAGNOSTICS changed = ROW_COUNT;
        erased := erased + changed;
    END IF;

    PERFORM set_config('tiebreak.erasing', '', true);
    RETURN erased;
END $$
"""

# ATTACH locks the parent against other definitions only, not against writers.
ENSURE_PARTITION: Final = """
CREATE FUNCTION ensure_partition(parent text, year integer) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    partition text := format('%s_y%s', parent, year);
BEGIN
    IF year NOT BETWEEN 1970 AND 2200 OR NOT EXISTS (
        SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(quote_ident(parent)))
    THEN
        RAISE EXCEPTION 'there are no partitions of % for the year %', parent, year
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partition'));
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                   partition, parent);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   parent, partition,
                   format('%s-01-01 00:00:00+00', year), format('%s-01-01 00:00:00+00', year + 1));
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', partition);
    RETURN partition;
END $$
"""

FUNCTIONS: Final = (
    REFUSE_CHANGE,
    REQUIRE_TOMBSTONE,
    DECISION_MOMENT,
    ERASE_TICKET,
    ENSURE_PARTITION,
)
CALLABLE_BY_APP: Final = ("erase_ticket(text, text)", "ensure_partition(text, integer)")


def functions() -> Iterator[str]:
    """Create the functions, of which the app role may call two; let it see the schema's version."""
    yield f"GRANT SELECT ON alembic_version TO {APP}, {READONLY}"
    yield from FUNCTIONS
    for function in CALLABLE_BY_APP:
        yield f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
        yield f"GRANT EXECUTE ON FUNCTION {function} TO {APP}"


def protect(table: str) -> Iterator[str]:
    """Make one new table append-only, or let the app role update it if it is in MUTABLE."""
    writes = "SELECT, INSERT, UPDATE" if table in MUTABLE else "SELECT, INSERT"
    yield f"GRANT {writes} ON {table} TO {APP}"
    yield f"GRANT SELECT ON {table} TO {READONLY}"
    if table in MUTABLE:
        return
    erasable = ", ".join(f"'{column}'" for column in ERASABLE.get(table, ()))
    yield (
        f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION refuse_change({erasable})"
    )
    yield (
        f"CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    if table in ERASABLE:
        yield (
            f"CREATE CONSTRAINT TRIGGER require_tombstone AFTER UPDATE ON {table} "
            f"DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW EXECUTE FUNCTION require_tombstone()"
        )
