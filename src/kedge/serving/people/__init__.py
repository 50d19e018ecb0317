"""What people say of answers, kept in a database, and what training makes of it."""
