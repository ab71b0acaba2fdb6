"""Runtimes that execute artifacts, and the clock."""
