"""Whole files through an artifact: readers, writers, and a run that can be killed and started again."""
