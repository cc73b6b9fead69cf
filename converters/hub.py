"""From what a user calls a checkpoint to a folder: a path as it is, or a hub id downloaded at a revision."""

import re
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("config.json", "vocab.txt", "tokenizer_config.json", "*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """Where the checkpoint is. For a hub id, `revision` is the commit that the release was made from."""

    path: Path
    source: str | None = None
    revision: str | None = None

    @property
    def origin(self) -> dict[str, str] | None:
        """What a manifest records of a download."""
        return {"hub": self.source, "revision": self.revision} if self.source and self.revision else None


def resolve_checkpoint(source: str, revision: str | None = None) -> ResolvedCheckpoint:
    """An existing path is returned as it is; `owner/name` is downloaded from the hub.

    revision: branch, tag or commit; the default branch if None.
    Raises InputError where it is neither, or the hub cannot be reached or does not have it.
    """
    if Path(source).exists():
        return ResolvedCheckpoint(Path(source))
    if not _HUB_ID.fullmatch(source):
        raise InputError(source, "expected an existing folder, a .safetensors file, or a hub id `owner/name`")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise InputError(source, "no such folder; to download it from the hub: pip install 'yizhi[hub]'") from None
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise InputError(source, "the hub asks for permission: log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(source, "no such folder, and no such repository on the hub") from None
    except RevisionNotFoundError:
        raise InputError(source, f"the hub has no revision {revision!r}") from None
    except LocalEntryNotFoundError:
        raise InputError(
            source, "no such folder; the hub cannot be reached, and its cache does not hold this revision"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise InputError(source, f"the hub could not be read: {error}") from None
    # A snapshot's folder is named by its commit.
    return ResolvedCheckpoint(folder, source, folder.name)
