"""Measurements at full size, each made by a command and written where the docs quote it."""
