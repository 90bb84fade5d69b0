"""What there is of a run: read fresh, reduced at once, and told to the planner in its own terms."""
