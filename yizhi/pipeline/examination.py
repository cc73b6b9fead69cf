"""What this machine can make and run, by the packages that are installed, and what to install for the rest."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version

from yizhi.converters.targets import TARGETS, Target
from yizhi.pipeline.environment import Environment

# Extras that are not one use: those of the targets stand in their own table.
_COLLECTIONS = ("all", "dev")


@dataclass(frozen=True)
class Use:
    """Something to do with a target, or with an extra. missing: what it needs; install: the extra that has them."""

    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Examination:
    """targets: what making and running each needs, by name. extras: what the other extras need."""

    environment: Environment
    targets: dict[str, dict[str, Use]]
    extras: dict[str, Use]


def examine() -> Examination:
    """This machine. Nothing is imported or run; packages are looked up by name."""
    targets = {name: {"make": _make(target), "run": _run(target)} for name, target in TARGETS.items()}
    needed = _needed_by_extra()
    known = {use.install for uses in targets.values() for use in uses.values()}
    extras = {
        extra: Use(_missing(names), extra)
        for extra, names in needed.items()
        if extra not in known and extra not in _COLLECTIONS
    }
    return Examination(Environment.here(), targets, extras)


def _make(target: Target) -> Use:
    return Use(_missing(target.converts_with), target.export_extra or target.extra or "")


def _run(target: Target) -> Use:
    return Use(_missing(target.runs_with), target.extra or "")


def _missing(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _needed_by_extra() -> dict[str, tuple[str, ...]]:
    """Distributions that each extra names, from the installed package's own metadata; {} for a copied tree."""
    try:
        said = metadata("yizhi")
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {extra: [] for extra in said.get_all("Provides-Extra") or ()}
    for line in said.get_all("Requires-Dist") or ():
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == [\"']([\w-]+)", marker)
        if name and extra and name[0] != "yizhi":
            found[extra[1]].append(name[0])
    return {extra: tuple(names) for extra, names in found.items()}
