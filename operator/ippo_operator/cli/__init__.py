"""The `ippo` command."""
