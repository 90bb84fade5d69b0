"""Live conversations after they happened: events, their journal and segments, what they add up to, the A/B test."""
