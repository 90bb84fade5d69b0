"""What runs inside the Jobs of an IterativePPORun: the stages, their maths and the artifact store."""
