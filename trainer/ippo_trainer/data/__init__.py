"""Logged conversations: schema, files, returns, splits and the import of a stranger's log."""
