"""The order of `yizhi package`, for each server's writer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yizhi.parity.golden import Golden
from yizhi.release.artifact import Artifact
from yizhi.runtimes.base import Inputs


@dataclass(frozen=True)
class Order:
    """artifacts: to package, of one release. golden: the release's. name, version: the models' own.

    signatures: the wanted ones. npm_folder: the folder of npm's tarballs, if not the cache.
    """

    artifacts: Sequence[Artifact]
    golden: Golden
    name: str
    version: int
    signatures: Sequence[str]
    npm_folder: Path | None = None

    def samples(self) -> dict[str, Inputs]:
        """Inputs to warm up with: the golden cases of a single row, from one token to the longest."""
        return {case.name: case.inputs for case in self.golden.cases if len(case.inputs.input_ids) == 1}
