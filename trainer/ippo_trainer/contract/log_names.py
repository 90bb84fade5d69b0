"""Endings of files by which readers tell what is in them, in lower case."""

LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
"""An object a line."""
ARRAYS = (".json", ".json.gz")
"""One array of objects."""
PARQUET = ".parquet"
CSV = (".csv", ".csv.gz")
LOGS = (*LINES, *ARRAYS, PARQUET)
OUTCOMES = (*LINES, *CSV, PARQUET)
REACTIONS = LINES
