"""Packages: a verified release in the folders that model servers expect."""
