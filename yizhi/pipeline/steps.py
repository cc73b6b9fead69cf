"""What jobs do, each in a process of its own: convert, make golden outputs, verify, score.

A step is a frozen dataclass; `yizhi.storage.codec` takes it, and what `run` returns, from process to process.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.converters.shared_files import write_config_and_tokenizer
from yizhi.converters.targets import TARGETS
from yizhi.model.spec import Pooling
from yizhi.parity.pace import Tell, tell_nobody
from yizhi.parity.record import Diagnosis, VerificationRecord
from yizhi.pipeline.code_digests import MADE_WITH, code_digest
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import DESCRIPTION, Artifact, ArtifactWriter
from yizhi.storage.codec import from_plain
from yizhi.storage.folders import new_folder
from yizhi.training.tasks.scores import Scores

# The int8 converter's argument, and the option that says which text it was: by its sha256.
CALIBRATION = "calibration"

if TYPE_CHECKING:
    from yizhi.parity.golden import Golden
    from yizhi.parity.verdict import Verdict
    from yizhi.runtimes.base import Runtime


@dataclass(frozen=True)
class Convert:
    """Export one target into its folder.

    description: what `artifact.json` will say, but for the files; its `options` are the converter's.
    calibration: rows of ids for int8, of which the options only hold a digest.
    """

    checkpoint: Path
    target: str
    folder: Path
    description: dict[str, Any]
    calibration: list[list[int]] = field(default_factory=list)
    ignored_files: tuple[str, ...] = ()

    def run(self, threads: int, tell: Tell = tell_nobody) -> None:
        """Write the artifact. Raises InputError, and MissingFramework."""
        converter = TARGETS[self.target].load_converter()
        told, options = self.description.get("pooling"), dict(self.description.get("options", {}))
        pooling = from_plain(Pooling, told) if told else None
        if options.pop(CALIBRATION, None):
            options[CALIBRATION] = self.calibration
        with (
            Checkpoint.open(self.checkpoint, pooling, self.ignored_files) as opened,
            new_folder(self.folder, replaces=(DESCRIPTION,)) as temporary,
        ):
            writer = ArtifactWriter(temporary)
            converter.convert(opened, writer, **options)
            write_config_and_tokenizer(opened, writer)
            writer.describe(self.description)


@dataclass(frozen=True)
class MakeGolden:
    """Run the oracle on every case, so many at once, and write `golden/`. pooling: that of the artifacts."""

    checkpoint: Path
    folder: Path
    pooling: Pooling | None = None
    ignored_files: tuple[str, ...] = ()
    workers: int = 1

    def run(self, threads: int, tell: Tell = tell_nobody) -> None:
        """Write the folder. Raises InputError."""
        from yizhi.parity.golden import CASES, Golden

        with (
            Checkpoint.open(self.checkpoint, self.pooling, self.ignored_files) as opened,
            new_folder(self.folder, replaces=(CASES,)) as temporary,
        ):
            Golden.make(opened, self.workers, tell).write(temporary)


@dataclass(frozen=True)
class Verify:
    """Run the cases through an artifact, so many at once.

    score_head: also score the masked-language-model head.
    known: the known checkpoint of the release, whose published outputs are compared too.
    bisect: the release's checkpoint, to find the first tensor that differs. math: one of `yizhi.choices.MATH`.
    """

    folder: Path
    golden: Path
    device: str = "cpu"
    score_head: bool = False
    known: str | None = None
    bisect: Path | None = None
    math: str = "strict"
    workers: int = 1

    def run(self, threads: int, tell: Tell = tell_nobody) -> VerificationRecord:
        """The verdict and what belongs to it. Raises InputError, and NotRun."""
        from yizhi.parity import plausibility, published
        from yizhi.parity.cases import find_wrong_cases
        from yizhi.parity.claims import find_false_claims
        from yizhi.parity.golden import Golden
        from yizhi.parity.judge import verify
        from yizhi.parity.texts import find_missing_texts
        from yizhi.parity.verdict import Verdict
        from yizhi.runtimes import open_runtime

        artifact, golden = Artifact.read(self.folder), Golden.read(self.golden)
        known = TARGETS.get(artifact.target)  # of another, `open_runtime` says what is wrong
        if known and (claims := find_false_claims(artifact, golden)):
            return Verdict(known.precision, self.device, faults=claims).record()
        with open_runtime(self.folder, device=self.device, threads=threads, math=self.math) as runtime:
            precision = TARGETS[runtime.artifact.target].precision if self.math == "strict" else self.math
            with self._at_hand(runtime) as checkpoint:
                verdict = verify(runtime, golden, precision, checkpoint, self.workers, tell)
            if not verdict.wrong_text:  # else the tokenizer says nothing of what the cases must be
                description = runtime.artifact.description
                text = read_tokenizer(self.folder)
                verdict.faults += find_wrong_cases(golden.cases, text, runtime.config, description["task"])
                verdict.faults += find_missing_texts(golden.text, runtime.artifact)
            graphs, wrong_graphs = _compare_graphs(runtime, golden)
            verdict.weights = replace(verdict.weights, graphs=graphs)
            verdict.faults += wrong_graphs
            to_bisect = self.bisect if verdict.gates and not verdict.passed else None
            if verdict.too_coarse and self.bisect:
                verdict.faults.append(_suggest(runtime, self.bisect, golden))
            compare = self.known if precision == "fp32" else None  # int8 cannot be held to published digits
            return verdict.record(
                diagnosis=_diagnose(runtime, to_bisect, golden, verdict) if to_bisect else None,
                published=published.check_published(runtime, compare) if compare else None,
                head=plausibility.score_head(runtime, workers=self.workers) if self.score_head else None,
            ).rounded()

    def _at_hand(self, runtime: "Runtime") -> AbstractContextManager[Checkpoint | None]:
        return Checkpoint.open(self.bisect, runtime.pooling, ("*",)) if self.bisect else nullcontext()


def _compare_graphs(runtime: "Runtime", golden: "Golden") -> tuple[int, list[str]]:
    """Compare the graphs, unless other code made the artifact: its graphs may differ and be right."""
    artifact = runtime.artifact
    if artifact.description["made_with"]["converters"] != code_digest(MADE_WITH):
        return 0, []
    return TARGETS[artifact.target].compare_graphs(artifact, runtime.build_spec(golden.weights))


def _suggest(runtime: "Runtime", checkpoint: Path, golden: "Golden") -> str:
    from yizhi.pipeline.int8_suggestion import suggest_kept  # exports, so needs what converting needs

    kept = runtime.artifact.description["options"].get("keep_fp32", [])
    with Checkpoint.open(checkpoint, runtime.pooling, ("*",)) as opened:
        return suggest_kept(opened, golden, kept, runtime.artifact.target)


def _diagnose(runtime: "Runtime", checkpoint: Path, golden: "Golden", verdict: "Verdict") -> Diagnosis | None:
    from yizhi.parity.bisect import bisect  # needs scipy, which a machine that only verifies does not have

    with Checkpoint.open(checkpoint, runtime.pooling, ("*",)) as opened:
        return bisect(runtime, opened, golden, verdict)


@dataclass(frozen=True)
class Score:
    """Run an artifact on labelled data. columns: as yizhi.training.tasks.readers.find_reader takes them."""

    folder: Path
    data: Path
    columns: Mapping[str, str]
    skip_faulty: bool = False
    device: str = "cpu"

    def run(self, threads: int, tell: Tell = tell_nobody) -> Scores:
        """Its scores. Raises InputError, and NotRun."""
        from yizhi.training.scoring import score_artifact

        return score_artifact(
            self.folder, self.data, self.columns, skip_faulty=self.skip_faulty, device=self.device, threads=threads
        )


STEPS = {step.__name__: step for step in (Convert, MakeGolden, Verify, Score)}
