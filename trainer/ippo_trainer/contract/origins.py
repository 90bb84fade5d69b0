"""Where a page in a browser comes from, as the browser says it."""

ORIGIN = r"^(\*|https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?)$"
"""Scheme, host, and the port where it is not the usual one; or all of them."""
