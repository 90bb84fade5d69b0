"""The catalogue shop: what sells is written in each conversation's context, with an exact solution."""
