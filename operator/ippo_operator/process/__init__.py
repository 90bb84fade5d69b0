"""The operator's process: kopf's watches wake runs, a keyed queue feeds passes, a Lease fences, probes tell the truth.

Only `watches` imports kopf, and of kopf only low-level event handlers: no finalizers, no annotations, no timers.
"""
