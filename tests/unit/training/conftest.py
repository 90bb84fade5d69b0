"""Fixtures of the tests of what training loops share."""

from tests.unit.ranks import group as group
