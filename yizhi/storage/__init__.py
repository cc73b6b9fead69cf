"""Files and folders: JSON, digests, locks, and folders that are there whole or not at all."""
