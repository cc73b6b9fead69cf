"""Files and folders: JSON, digests, locks, rows of data files, and folders that are whole or absent."""
