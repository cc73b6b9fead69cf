"""A release in a repository of models on the Hugging Face hub: one commit, whole or absent."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yizhi.errors import CheckFailed, InputError, NotRun
from yizhi.registries.address import HubAddress
from yizhi.registries.contents import File
from yizhi.registries.registry import Remote

try:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars
except ImportError as error:
    raise NotRun("the hub", f"needs {error.name}: pip install 'yizhi[hub]'") from None

# The hub's own file: which names are stored as large files.
_HUBS_OWN = ".gitattributes"
_MEANINGS = {
    401: "asks for a login: hf auth login, or HF_TOKEN",
    403: "does not allow it with this login",
    409: "has had another commit meanwhile: run it again",
    412: "has had another commit meanwhile: run it again",
    429: "has had too many requests: try again later",
}


class HubRegistry:
    """See `yizhi.registries.registry.Registry`. The token is HF_TOKEN, or the one that `hf auth login` stored."""

    def __init__(self, address: HubAddress, public: bool = False) -> None:
        self._address = address
        self._public = public
        self._api = HfApi()
        if not sys.stderr.isatty():
            disable_progress_bars()

    def find(self) -> Remote | None:
        """The revision's present commit, and its files. None if the repository or the revision does not exist."""
        with self._explained():
            try:
                commit = self._api.repo_info(self._address.repository, revision=self._address.revision).sha
                found = list(self._api.list_repo_tree(self._address.repository, recursive=True, revision=commit))
            except GatedRepoError:
                raise InputError(self._address, "the hub asks for permission: request access, then log in") from None
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
        files = [file for file in found if isinstance(file, RepoFile) and file.path != _HUBS_OWN]
        listed = {file.path: File(file.path, file.lfs.sha256 if file.lfs else None, file.size) for file in files}
        return Remote(str(commit), listed)

    def fetch(self, remote: Remote, path: str, folder: Path) -> None:
        """As the protocol says. The hub's own sums of small files are git's, so these files are checked afterwards."""
        with self._explained():
            self._api.hf_hub_download(self._address.repository, path, revision=remote.version, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    def find_missing(self, files: Sequence[File]) -> list[File]:
        """All files: the library itself asks the hub, before it sends, which large files are missing."""
        return list(files)

    def push(
        self,
        release: Path,
        manifest: Mapping[str, Any],
        files: Sequence[File],
        before: Remote | None,
        told: Callable[[str], None],
    ) -> str:
        """One commit, on top of the found one: the revision is the former release or this one, whole."""
        additions = [CommitOperationAdd(file.path, release / file.path) for file in files]
        altered = [
            addition.path_in_repo
            for addition, file in zip(additions, files, strict=True)
            if addition.upload_info.sha256.hex() != file.sha256
        ]
        if altered:
            raise CheckFailed(f"{release}: changed while it was read: {', '.join(altered)}")
        told(f"sending to {self._address}")
        repository, revision = self._address.repository, self._address.revision
        with self._explained():
            if before is None:
                self._api.create_repo(repository, private=not self._public, exist_ok=True)
                if revision:
                    self._api.create_branch(repository, branch=revision, exist_ok=True)
                before = self.find()  # a new branch begins with the files of another
            if revision and revision not in [branch.name for branch in self._api.list_repo_refs(repository).branches]:
                raise InputError(self._address, f"{revision} is a tag or a commit, which stays as it is: name a branch")
            gone = sorted(before.files.keys() - {file.path for file in files}) if before else []
            done = self._api.create_commit(
                repository,
                [*additions, *(CommitOperationDelete(path) for path in gone)],
                commit_message=f"Release {manifest['sha256'][:12]}",
                revision=revision,
                parent_commit=before.version if before else None,
            )
        after = HubRegistry(HubAddress(repository, done.oid)).find()
        if after is None or {path: file.size for path, file in after.files.items()} != {
            file.path: file.size for file in files
        }:
            raise CheckFailed(f"{self._address}: commit {done.oid} does not hold the release's files")
        return str(done.oid)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the hub or the line to it says, as an error of ours, without a request's headers or its URL."""
        try:
            yield
        except InputError:
            raise
        except HFValidationError:
            raise InputError(self._address, "is not a name that the hub allows") from None
        except HfHubHTTPError as error:
            raise self._explain(error) from None
        except RuntimeError as error:  # what the library makes of an upload that failed in a thread
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                raise self._explain(cause) from None
            kind = type(cause or error).__name__
            raise InputError(self._address, f"a file could not be sent to the hub: {kind}") from None
        except ValueError as error:  # the hub judges the header of README.md
            raise InputError(self._address, f"the hub refuses it: {error}") from None
        # HTTPError: what the library's HTTP client raises, whichever that is (requests or httpx).
        except (HTTPError, OSError) as error:
            kind = type(error).__name__
            raise InputError(self._address, f"the hub cannot be reached, or the connection broke: {kind}") from None

    def _explain(self, error: HfHubHTTPError) -> InputError:
        status = error.response.status_code if error.response is not None else 0
        meaning = _MEANINGS.get(status, "failed" if status >= 500 else "refused it")
        return InputError(self._address, f"the hub {meaning} (HTTP {status})")
