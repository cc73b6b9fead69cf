"""A release to a hub or an OCI registry, and back. Every file is checked on the way."""
