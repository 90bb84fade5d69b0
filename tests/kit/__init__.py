"""What tests of more than one room build on. What one room alone needs stands in that room's folder."""
