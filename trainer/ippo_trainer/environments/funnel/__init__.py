"""SR-funnel, the yardstick of design section 8."""
