"""Serves a promoted policy over an OpenAI-compatible HTTP API (`ippo-serve`)."""
