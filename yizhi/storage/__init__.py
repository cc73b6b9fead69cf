"""Files and folders: JSON, digests, locks, rows of data files, and folders that are there whole or not at all."""
