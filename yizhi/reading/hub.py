"""From a user's name of a checkpoint to a folder: a path as it is, or a hub id downloaded at a revision."""

import re
from dataclasses import dataclass
from pathlib import Path

from yizhi.errors import InputError, show
from yizhi.reading.sentence_settings import MODULES, PROMPTS, SETTINGS
from yizhi.reading.source_card import CARD, LICENCE_FILES
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES

EXPECTED = "expected an existing folder, a .safetensors file, or a hub id `owner/name`"
FILES = (
    *("config.json", *TOKENIZER_FILES, "*.safetensors", "model.safetensors.index.json", "adapter_config.json"),
    *(MODULES, *SETTINGS, PROMPTS, "*/config.json", CARD, *LICENCE_FILES),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """Where a checkpoint is, and the name that the user gave.

    revision: for a hub id, the commit that was downloaded, so that a release can record it; else None.
    """

    path: Path
    source: str
    revision: str | None = None

    @property
    def origin(self) -> dict[str, str] | None:
        """The hub id and the revision, for the manifest; None without a download."""
        return {"hub": self.source, "revision": self.revision} if self.revision else None


def resolve_checkpoint(source: str, revision: str | None = None) -> ResolvedCheckpoint:
    """An existing folder or `.safetensors` file is returned as it is; `owner/name` is downloaded from the hub.

    revision: branch, tag or commit of a hub id; its default branch if None.
    Raises InputError if `source` is none of these, if the hub cannot be reached, or if it does not have the checkpoint.
    """
    path = Path(source)
    if source and (path.is_dir() or (path.is_file() and path.suffix == ".safetensors")):
        if revision is not None:
            raise InputError(source, f"is on this machine, and has no revision {show(revision)}: leave `revision` out")
        return ResolvedCheckpoint(path, source)
    if path.exists() or not _HUB_ID.fullmatch(source):
        raise InputError(source, EXPECTED)
    folder = _download(source, revision)
    if not any(folder.glob("*.safetensors")):
        raise InputError(source, f"the hub has no .safetensors file in it at {folder.name}; see `yizhi import`")
    return ResolvedCheckpoint(folder, source, revision=folder.name)  # a snapshot's folder is named by its commit


def _download(hub_id: str, revision: str | None) -> Path:
    """The snapshot's folder in the hub's cache. Raises InputError if it cannot be downloaded."""
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils import tqdm
    except ImportError:
        raise InputError(
            hub_id, f"no such folder or file ({EXPECTED}); to download from the hub: pip install 'yizhi[hub]'"
        ) from None

    class OnTerminals(tqdm):
        """A progress bar that stays out of logs."""

        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": options.get("disable") or None})

    try:
        folder = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=list(FILES),
            ignore_patterns=["*/*.safetensors"],
            tqdm_class=OnTerminals,
        )
    except errors.GatedRepoError:
        raise InputError(hub_id, "the hub requires permission: request access, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            hub_id, "no such folder or file, and no such repository on the hub (or a private one)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(hub_id, f"the hub has no revision {show(revision)} of it") from None
    except errors.HFValidationError:
        raise InputError(hub_id, EXPECTED) from None
    except errors.LocalEntryNotFoundError as error:
        why = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
        raise InputError(
            hub_id, f"no such folder or file; the hub cannot be reached{why}, and its cache does not hold this revision"
        ) from None
    # HTTPError: what the library's HTTP client raises, whichever that is (requests or httpx).
    except (errors.HTTPError, OSError) as error:
        raise InputError(hub_id, f"could not be downloaded: {error}") from None
    return Path(folder)
