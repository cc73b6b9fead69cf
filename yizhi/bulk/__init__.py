"""Whole files through an artifact: readers, writers, and a run that resumes after a kill."""
