"""The control half: the IterativePPORun API, its planner, and what carries the plan out."""
