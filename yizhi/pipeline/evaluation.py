"""`yizhi verify --eval`: each artifact's score on labelled data, against the PyTorch artifact's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yizhi.errors import InputError
from yizhi.pipeline.jobs import Job, run_jobs
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Evaluation, Row
from yizhi.pipeline.steps import Score
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.storage.digests import sha256_of_file
from yizhi.training.tasks.scores import Scores

# In fp32 and with the fewest steps from the checkpoint: its weights are the checkpoint's own file.
REFERENCE = "pytorch"


@dataclass(frozen=True)
class Demand:
    """The labelled data to score on, and the demanded score.

    columns: as yizhi.training.tasks.readers.find_reader takes them. minimum: the least share of the reference's score
    with which an artifact passes; None demands nothing.
    """

    data: Path
    columns: Mapping[str, str]
    skip_faulty: bool = False
    minimum: float | None = None

    def check(self, release: Path, names: list[str]) -> list[str]:
        """Read the data once, before anything is run; returns the faults of rows that are left out.

        Raises InputError for data that cannot be used, or a release without the reference.
        """
        from yizhi.training.scoring import read_labelled

        if self.minimum is not None and not 0 < self.minimum <= 1:
            raise InputError("`minimum`", f"expected more than 0, at most 1; found {self.minimum}")
        if not (release / REFERENCE / DESCRIPTION).is_file():
            raise InputError(release, f"has no {REFERENCE} artifact, which scores are compared with")
        return read_labelled(Artifact.read(release / names[0]), self.data, self.columns, self.skip_faulty)[2]

    def run(self, release: Path, rows: Mapping[str, Row], device: str, jobs: int, progress: Progress) -> None:
        """Score the artifact of each row that passed so far, and set its `evaluation`."""
        names = [name for name, row in rows.items() if row.passed]
        plan = [
            Job(f"score {name}", Score(release / name, self.data, self.columns, self.skip_faulty, device))
            for name in dict.fromkeys([REFERENCE, *names])
        ]
        progress.begin([job.name for job in plan])
        results = run_jobs(plan, jobs, progress)
        reference = results[f"score {REFERENCE}"]
        digest = sha256_of_file(self.data)
        for name in names:
            found = results[f"score {name}"]
            relative = None
            if found.value and reference.value:
                relative, faults = self._compare(found.value, reference.value)
            else:
                faults = found.faults or [f"{REFERENCE}: {fault}" for fault in reference.faults]
            rows[name].evaluation = Evaluation(
                self.data.name,
                digest,
                self.minimum,
                [f"{self.data.name}: {fault}" for fault in faults],
                found.value if reference.value else None,
                relative,
            )

    def _compare(self, found: Scores, reference: Scores) -> tuple[float | None, list[str]]:
        """The score as a share of the reference's, and the faults."""
        best = found.best
        score, expected = found.scores[best], reference.scores[best]
        if expected <= 0:
            faults = [f"{REFERENCE} has {best} {expected:.4f}: no share of this score can be demanded"]
            return None, faults if self.minimum else []
        relative = score / expected
        if self.minimum is None or relative >= self.minimum:
            return relative, []
        against = f"{REFERENCE}'s {expected:.4f}; expected {self.minimum:.1%} or more"
        return relative, [f"{best} {score:.4f} is {relative:.1%} of {against}"]
