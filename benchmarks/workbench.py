"""What every section of `make bench` measures with: settings, the files that contestants open, and the results."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.contestants import FRAMEWORKS
from benchmarks.machines import describe_machine
from benchmarks.processes import ROOT, Contestant, Failed, environment, run
from benchmarks.servers import only_features
from yizhi.pipeline.synthesis import DEFAULT_CONFIG, synthesize

OURS = "yizhi"
# The venv of a contestant: ours, or one that `make bench` installs from the file of its name in benchmarks/.
PEERS, PEERS_5 = "peers", "peers-5"
VENVS = {OURS: Path(sys.executable).parent, **{name: ROOT / "build" / name / "bin" for name in (PEERS, PEERS_5)}}

# row -> contestant -> what was measured, or {"failed": why}
Rows = dict[str, dict[str, dict[str, Any]]]


@dataclass
class Workbench:
    """Settings of one run. Everything it makes is below `folder`, and can be removed.

    beside: what else the machine does, in words.
    """

    folder: Path
    results: Path
    threads: int
    quick: bool = False
    beside: str | None = None
    say: Callable[[str], None] = lambda line: print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)
    # Of the processes that ran the passes: framework -> contestant -> seconds to the first answer and peak memory.
    first_answers: Rows = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Of the checkpoint that contestants share: BERT-base, or a quarter of it for a quick look."""
        return 3 if self.quick else 12

    @property
    def rounds(self) -> int:
        """How often whole processes take turns."""
        return 1 if self.quick else 3

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, tokens in each) of the passes that are timed."""
        return ((8, 128),) if self.quick else ((1, 32), (8, 128), (4, 512))

    @cached_property
    def versions(self) -> dict[str, dict[str, str]]:
        """Venv -> package -> version, of the venvs that are installed; of ours, the frameworks alone."""
        code = "import benchmarks.contestants as c, json; print(json.dumps(c.installed_versions()))"
        found = {
            venv: json.loads(subprocess.check_output((folder / "python", "-c", code), env=environment(self.threads)))
            for venv, folder in VENVS.items()
            if (folder / "python").exists()
        }
        return {**found, OURS: {name: version for name, version in found[OURS].items() if name in FRAMEWORKS}}

    def checkpoint(self, layers: int | None = None, width: int = 768) -> Path:
        """A random checkpoint of BERT-base's shape with so many layers, made once."""
        layers = layers or self.layers
        folder = self.folder / f"checkpoint-{layers}x{width}"
        if not (folder / "model.safetensors").exists():
            self.say(f"making a checkpoint of {layers} layers, {width} wide")
            heads = {"num_attention_heads": width // 64, "intermediate_size": 4 * width}
            synthesize(folder, {**DEFAULT_CONFIG, **heads, "num_hidden_layers": layers, "hidden_size": width})
        return folder

    def ours(self, target: str) -> Path:
        """Our artifact of the shared checkpoint, made once for the code as it is."""
        out = self.folder / f"ours-{self.layers}" / target
        newest = max(path.stat().st_mtime for path in (ROOT / "converters").rglob("*.py"))
        if not (out / "artifact.json").exists() or (out / "artifact.json").stat().st_mtime < newest:
            self.make(self.convert(f"yizhi-{target}", self.checkpoint(), out))
        return out

    def features(self, target: str) -> Path:
        """Our artifact with the graph without a head alone, for peers that open the default graph."""
        return only_features(self.ours(target), self.folder / f"features-{target}")

    def peer(self, kind: str) -> Path:
        """A peer's model of the shared checkpoint, made once. Raises Failed where it cannot be made."""
        out = self.folder / f"peers-{self.layers}" / kind
        if not out.exists():
            partial = out.with_name(f"{kind}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            self.say(f"making {kind}'s model")
            self.make(*self._peer_commands(kind, partial))
            partial.rename(out)
        return out

    def _peer_commands(self, kind: str, out: Path) -> tuple[Sequence[str], ...]:
        if kind == "optimum":
            return (self.optimum_export(self.checkpoint(), out, "feature-extraction"),)
        if kind in ("optimum-O1", "optimum-O3"):
            level = f"-{kind[-2:]}"
            return (self.optimum("onnxruntime", "optimize", "--onnx_model", self.peer("optimum"), level, "-o", out),)
        if kind == "optimum-int8":
            return (self.optimum_quantize(self.peer("optimum"), out),)
        if kind == "optimum-intel":
            return (self.optimum_intel_export(self.checkpoint(), out, "feature-extraction", "fp32"),)
        if kind == "optimum-intel-int8":
            return (self.optimum_intel_export(self.checkpoint(), out, "feature-extraction", "int8"),)
        source = self.peer("optimum") if kind == "openvino" else self.checkpoint()
        return (self.convert(kind, source, out),)

    def convert(self, kind: str, source: Path, out: Path) -> Sequence[str]:
        """A command of `benchmarks.conversions`, in the venv that has what it needs."""
        venv = OURS if kind == "copy" or kind.startswith(OURS) else PEERS
        return (str(VENVS[venv] / "python"), "-m", "benchmarks.conversions", kind, str(source), str(out))

    def optimum(self, *arguments: object, venv: str = PEERS) -> Sequence[str]:
        """A command of `optimum-cli`."""
        return (str(VENVS[venv] / "python"), str(VENVS[venv] / "optimum-cli"), *map(str, arguments))

    def optimum_export(self, checkpoint: Path, out: Path, task: str) -> Sequence[str]:
        """To an fp32 ONNX file."""
        return self.optimum("export", "onnx", "--model", checkpoint, "--task", task, out)

    def optimum_quantize(self, onnx_model: Path, out: Path) -> Sequence[str]:
        """To int8 with dynamic quantization."""
        return self.optimum("onnxruntime", "quantize", "--onnx_model", onnx_model, "--avx512_vnni", "-o", out)

    def optimum_intel_export(self, checkpoint: Path, out: Path, task: str, weights: str) -> Sequence[str]:
        """To an OpenVINO graph. weights: fp32, or int8, which quantizes weights alone."""
        arguments = ("export", "openvino", "--model", checkpoint, "--task", task, "--weight-format", weights, out)
        return self.optimum(*arguments, venv=PEERS_5)

    def make(self, *commands: Sequence[str]) -> dict[str, float]:
        """Run commands as whole processes; see `benchmarks.processes.run`. Raises Failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return run(commands, self.folder / "log.txt", self.threads)

    def contestant(
        self, kind: str, folder: Path, venv: str = OURS, device: str = "cpu", module: str = "benchmarks.contestants"
    ) -> Contestant:
        """Start one, with the Python of its venv. Raises Failed."""
        command = (str(VENVS[venv] / "python"), "-m", module, kind, str(folder), str(self.threads), device)
        return Contestant(command, self.folder / f"log-{kind}.txt", self.threads)

    def take_turns(self, row: str, entries: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Any]:
        """Call each entry once a round and keep what it gives, value by value, in lists.

        One that fails takes no further turns, and its reason takes the place of its measurements.
        """
        measured: dict[str, Any] = {name: {} for name in entries}
        for number in range(rounds):
            for name, entry in entries.items():
                if "failed" in measured[name]:
                    continue
                start = time.perf_counter()
                try:
                    found = entry()
                except Failed as error:
                    measured[name] = {"failed": str(error)}
                    self.say(f"{row}, {name}: failed: {error}")
                    continue
                for key, value in found.items():
                    measured[name].setdefault(key, []).append(value)
                self.say(f"{row}, {name}: round {number + 1} of {rounds}, {time.perf_counter() - start:.1f} s")
        return measured

    def keep(self, section: str, rows: Rows, **settings: Any) -> None:
        """Write a section's results beside those of the sections that were run before."""
        known = json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else {"sections": {}}
        known["machine"] = describe_machine()
        known["sections"][section] = {
            "measured": time.strftime("%Y-%m-%d", time.gmtime()),
            "quick": self.quick,
            "layers": self.layers,
            "threads": self.threads,
            **({"beside": self.beside} if self.beside else {}),
            "versions": self.versions,
            "rows": rows,
            **settings,
        }
        self.results.parent.mkdir(parents=True, exist_ok=True)
        # Not `to_json`: the order of rows and contestants is theirs.
        self.results.write_text(json.dumps(known, ensure_ascii=False, indent=1), encoding="utf-8")
