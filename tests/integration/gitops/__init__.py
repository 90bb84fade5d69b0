"""Runs from Git: the real kstatus, Flux and Argo CD."""
