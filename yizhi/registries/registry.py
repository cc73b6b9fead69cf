"""What push and pull ask of a place, whichever it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from yizhi.registries.address import HubAddress, OciAddress
from yizhi.registries.contents import File


@dataclass(frozen=True)
class Remote:
    """What an address holds now. version: its digest, or its commit. files: by path."""

    version: str
    files: Mapping[str, File]


class Registry(Protocol):
    """A hub or an OCI registry at one address. Every call raises InputError for what goes wrong on the way."""

    def find(self) -> Remote | None:
        """What is there; None where there is nothing yet."""

    def fetch(self, remote: Remote, path: str, folder: Path) -> None:
        """Write one file into the folder. Raises CheckFailed where its bytes are not what the registry listed."""

    def find_missing(self, files: Sequence[File]) -> list[File]:
        """Those whose bytes the registry does not have yet."""

    def push(
        self,
        release: Path,
        manifest: Mapping[str, Any],
        files: Sequence[File],
        before: Remote | None,
        told: Callable[[str], None],
    ) -> str:
        """Send what is missing and let the address point at the release, in one step and last; return its version.

        before: what was found there. told: hears of progress. Raises CheckFailed where the address was moved since.
        """


def open_registry(address: HubAddress | OciAddress, public: bool = False) -> Registry:
    """public: a repository that the hub must create is open to everybody. Raises NotRun for what is not installed."""
    if isinstance(address, HubAddress):
        from yizhi.registries.hub import HubRegistry

        return HubRegistry(address, public)
    from yizhi.registries.oci import OciRegistry

    return OciRegistry(address)
