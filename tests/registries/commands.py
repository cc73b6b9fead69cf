"""What tests of OCI registries run, and what they look at afterwards."""

from pathlib import Path

from yizhi.cli import main


def push(release, registry, *options):
    return main(["push", str(release), "--to", registry.address, *options])


def pull(registry, out, *options):
    return main(["pull", registry.address, "--out", str(out), *options])


def sent(registry):
    return [path for method, path, _ in registry.seen if method in ("POST", "PUT", "PATCH", "DELETE")]


def left_behind(folder: Path) -> list[str]:
    """What a failed pull into `folder / "out"` must not leave."""
    return [path.name for path in folder.iterdir() if "out" in path.name]
