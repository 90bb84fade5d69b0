"""The garden: advice whose effect comes weeks later, with an exact solution."""
