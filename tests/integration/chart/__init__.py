"""The Helm chart: rendered, applied to a real API server, installed, and its rights proven both ways."""
