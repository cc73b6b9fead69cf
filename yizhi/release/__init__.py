"""The release format: artifacts, manifests, their schemas, documents and signatures."""
