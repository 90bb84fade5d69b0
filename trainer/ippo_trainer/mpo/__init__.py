"""Maximum a posteriori policy optimisation (arXiv 1806.06920) on logged states: weighted likelihood of candidates."""
