"""SR-funnel: solved exactly, and neither what is accepted most nor what sells at once is the best policy."""
