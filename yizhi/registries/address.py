"""Addresses of releases: `hf://ORG/NAME[@REVISION]`, `oci://HOST[:PORT]/NAME:TAG`, or `…@sha256:DIGEST`."""

import re
from dataclasses import dataclass

from yizhi.errors import InputError

EXPECTED = "expected hf://ORG/NAME, hf://ORG/NAME@REVISION, oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST"
_HUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
# Names and tags as in https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_OCI = re.compile(
    r"((?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?)/"
    rf"({_PART}(?:/{_PART})*)"
    r"(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(sha256:[0-9a-f]{64}))"
)


@dataclass(frozen=True)
class HubAddress:
    """A repository of models on the hub. revision: a branch; for a pull also a tag or a commit; the default if None."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class OciAddress:
    """A tag, or a manifest by its digest, in a repository of an OCI registry. reference: either of the two."""

    host: str
    repository: str
    reference: str

    @property
    def by_digest(self) -> bool:
        """Whether the address names the content itself."""
        return ":" in self.reference

    def at(self, digest: str) -> "OciAddress":
        """The same repository's manifest of this digest."""
        return OciAddress(self.host, self.repository, digest)

    def __str__(self) -> str:
        return f"oci://{self.host}/{self.repository}{'@' if self.by_digest else ':'}{self.reference}"


def parse_address(text: str) -> HubAddress | OciAddress:
    """Raises InputError for a text of another form."""
    scheme, _, rest = text.partition("://")
    if scheme == "hf" and (found := _HUB.fullmatch(rest)) and ".." not in rest:
        return HubAddress(found[1], found[2])
    if scheme == "oci" and (found := _OCI.fullmatch(rest)):
        return OciAddress(found[1], found[2], found[3] or found[4])
    raise InputError(text, EXPECTED)
