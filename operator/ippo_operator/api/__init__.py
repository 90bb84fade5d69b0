"""The IterativePPORun as pydantic models, its rules, and the loader that explains what is wrong with a manifest.

Pure: no files, no clock, no Kubernetes. The local runner and the operator read the same models.
"""
