"""Our schemas for jsonschema, which must find what they refer to."""

from referencing import Registry

from yizhi.release.schema import load_schema

KINDS = ("artifact", "cases", "manifest", "package", "policy", "vocab_map", "withdrawn")


def schema_registry() -> Registry:
    """Every schema under its $id."""
    return Registry().with_contents((schema["$id"], schema) for schema in (load_schema(f"{kind}.v1") for kind in KINDS))
