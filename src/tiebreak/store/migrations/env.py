"""Runs migrations on the connection that `store.migrate` hands over."""

from alembic import context

from tiebreak.store.migrate import comparison_options

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=False, **comparison_options())
with context.begin_transaction():
    context.run_migrations()
