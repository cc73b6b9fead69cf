"""A release to a hub or an OCI registry, and back, with every file checked on the way."""
