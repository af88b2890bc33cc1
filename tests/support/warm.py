"""Imported once by the process that others are forked from, see ``torture``."""

from tests.support.torture import warm_up

warm_up()
