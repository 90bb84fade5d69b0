"""Builders of the objects that a run owns: ConfigMaps, Jobs, the Deployment and Service that serve. Pure functions."""
