"""Alembic's way in: the connection is given."""

from alembic import context

from kedge.serving.people.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
