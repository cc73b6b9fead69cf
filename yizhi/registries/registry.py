"""The calls of push and pull to any registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from yizhi.registries.address import HubAddress, OciAddress
from yizhi.registries.contents import File


@dataclass(frozen=True)
class Remote:
    """The present contents of an address. version: its digest, or its commit. files: by path."""

    version: str
    files: Mapping[str, File]


class Registry(Protocol):
    """A hub or an OCI registry at one address. Every call raises InputError for failures on the way."""

    def find(self) -> Remote | None:
        """The contents of the address. None if there is nothing yet."""

    def fetch(self, remote: Remote, path: str, folder: Path) -> None:
        """Write one file into the folder. Raises CheckFailed if its bytes differ from the registry's listing."""

    def find_missing(self, files: Sequence[File]) -> list[File]:
        """The files whose bytes the registry does not have yet."""

    def push(
        self,
        release: Path,
        manifest: Mapping[str, Any],
        files: Sequence[File],
        before: Remote | None,
        told: Callable[[str], None],
    ) -> str:
        """Send the missing files, then point the address at the release, in one step. Returns its version.

        before: the contents found there. told: called with progress. Raises CheckFailed if the address has moved since.
        """


def open_registry(address: HubAddress | OciAddress, public: bool = False) -> Registry:
    """public: a repository that the hub must create is open to everybody. Raises NotRun for missing packages."""
    if isinstance(address, HubAddress):
        from yizhi.registries.hub import HubRegistry

        return HubRegistry(address, public)
    from yizhi.registries.oci import OciRegistry

    return OciRegistry(address)
