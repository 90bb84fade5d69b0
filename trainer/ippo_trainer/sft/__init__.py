"""Supervised start: whole conversations through trl's SFTTrainer, resumable to the bit."""
