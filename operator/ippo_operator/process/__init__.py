"""The operator's process: kopf's watches wake runs, a keyed queue feeds passes, a Lease fences, probes tell the truth.

`operator` puts the process together, `workers` decides when a run gets a pass, and `watches` is all that imports kopf.
"""
