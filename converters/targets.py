"""TARGETS: the only list of what Yizhi can export to.

A target's converter module has `convert(checkpoint, writer)`, which writes the artifact's
files. Its runtime class opens the finished folder. Both are named, not imported, so that a missing
framework breaks its own target and nothing else.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from yizhi.errors import InputError, NotRun, propose

if TYPE_CHECKING:
    from yizhi.model.spec import EncoderSpec
    from yizhi.reading.stored_tensors import TensorPlace
    from yizhi.release.artifact import Artifact


# The argument of a converter by which the checkpoint's bfloat16 tensors stay bfloat16 (docs/size.md).
KEEP_BF16 = "keep_bf16"


class MissingFramework(NotRun):
    """A target's framework is not installed. Breaks that target alone."""


@dataclass(frozen=True)
class Target:
    """One kind of artifact.

    precision: the key of its tolerances. tensors: the function that says where the folder holds each tensor.
    files: patterns of the names of its own files, beside those that every artifact has.
    graphs: the function that compares its graphs with newly built ones; None if there is no such function.
    converts_with, runs_with: the distributions it needs for each, beyond numpy and tokenizers.
    wasm: the runtime class that runs it as a browser does; None if a browser cannot.
    extra: the pip extra that it needs to run; `export_extra`: the one that it needs to convert, if not the same.
    keeps_bf16: whether its converter has the argument KEEP_BF16.
    steps: whether artifacts of causal language models have a step with a cache.
    size: bytes per parameter, for the space an export needs. slow: starts first, so that no core idles at the end.
    """

    name: str
    precision: str
    converter: str
    runtime: str
    tensors: str
    files: tuple[str, ...]
    converts_with: tuple[str, ...]
    runs_with: tuple[str, ...]
    graphs: str | None = None
    wasm: str | None = None
    extra: str | None = None
    export_extra: str | None = None
    keeps_bf16: bool = False
    steps: bool = False
    size: float = 4.05
    slow: bool = False

    def load_converter(self) -> ModuleType:
        """Import the converter module. Raises MissingFramework, naming the extra to install."""
        self._require(self.converts_with, self.export_extra or self.extra)
        return importlib.import_module(self.converter)

    def load_runtime(self, in_browser: bool = False) -> Any:
        """Import the runtime class, of a room that this one may not import. in_browser: the one in WebAssembly.

        Raises MissingFramework, with the extra, and NotRun if a browser cannot run this target.
        """
        runtime = self.runtime
        if in_browser:
            if not self.wasm:
                raise NotRun("`runtime` wasm", f"a browser cannot run {self.name}")
            runtime = self.wasm
            self._require(("onnx",), self.export_extra)
        else:
            self._require(self.runs_with, self.extra)
        module, name = runtime.split(":")
        return getattr(importlib.import_module(module), name)

    def stored_tensors(self, folder: Path) -> "list[TensorPlace]":
        """Where an artifact's folder holds each tensor. Raises InputError."""
        module, name = self.tensors.split(":")
        found: list[TensorPlace] = getattr(importlib.import_module(module), name)(folder)
        return found

    def compare_graphs(self, artifact: "Artifact", spec: "EncoderSpec") -> tuple[int, list[str]]:
        """The number of graphs that were compared with newly built ones, and the differences.

        The number is 0 without such a function, or if the target cannot be converted here. Raises InputError.
        """
        if not self.graphs or not self.is_convertible():
            return 0, []
        module, name = self.graphs.split(":")
        found: tuple[int, list[str]] = getattr(importlib.import_module(module), name)(artifact, spec)
        return found

    def versions(self) -> Mapping[str, str]:
        """Versions of the distributions whose code shapes the artifact's bytes."""
        return {name: version(name) for name in (*self.converts_with, "tokenizers")}

    def missing(self) -> list[str]:
        """Distributions that converting or running needs and that are not installed."""
        return _missing((*self.converts_with, *self.runs_with))

    def is_convertible(self) -> bool:
        """Whether everything that converting needs is installed."""
        return not _missing(self.converts_with)

    def _require(self, distributions: tuple[str, ...], extra: str | None) -> None:
        missing = _missing(distributions)
        if missing:
            raise MissingFramework(f"target {self.name}", f"needs {', '.join(missing)}: pip install 'yizhi[{extra}]'")


def _missing(distributions: tuple[str, ...]) -> list[str]:
    missing = []
    for name in distributions:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="pytorch",
            precision="fp32",
            converter="yizhi.converters.to_pytorch",
            runtime="yizhi.runtimes.pytorch_runtime:PyTorchRuntime",
            tensors="yizhi.reading.stored_tensors:read_pytorch",
            files=(
                "model.safetensors",
                "pooler.safetensors",
                "token_heads.safetensors",
                "model.safetensors.index.pooler.json",
            ),
            converts_with=(),
            runs_with=("torch", "safetensors"),
            extra="pytorch",
            keeps_bf16=True,
            steps=True,
        ),
        Target(
            name="tensorflow",
            precision="fp32",
            converter="yizhi.converters.to_tensorflow",
            runtime="yizhi.runtimes.tensorflow_runtime:TensorFlowRuntime",
            tensors="yizhi.reading.stored_tensors:read_tensorflow",
            files=("saved_model.pb", "fingerprint.pb", "variables/variables.*", "assets/*"),
            converts_with=("tensorflow",),
            runs_with=("tensorflow",),
            extra="tensorflow",
            slow=True,
        ),
        Target(
            name="flax",
            precision="fp32",
            converter="yizhi.converters.to_flax",
            runtime="yizhi.runtimes.flax_runtime:FlaxRuntime",
            tensors="yizhi.reading.stored_tensors:read_flax",
            files=("flax_model.msgpack",),
            converts_with=("msgpack",),
            runs_with=("jax", "msgpack"),
            extra="flax",
            keeps_bf16=True,
        ),
        Target(
            name="onnx",
            precision="fp32",
            converter="yizhi.converters.to_onnx",
            runtime="yizhi.runtimes.onnx_runtime:OnnxRuntime",
            tensors="yizhi.reading.stored_tensors:read_onnx",
            files=("*.onnx", "model.onnx.data"),
            converts_with=("onnx",),
            runs_with=("onnxruntime",),
            graphs="yizhi.parity.onnx_graphs:compare_graphs",
            wasm="yizhi.runtimes.wasm_runtime:WasmRuntime",
            extra="onnx",
            export_extra="onnx-export",
            keeps_bf16=True,
            steps=True,
        ),
        Target(
            name="onnx-int8",
            precision="int8",
            converter="yizhi.converters.to_onnx_int8",
            runtime="yizhi.runtimes.onnx_runtime:OnnxRuntime",
            tensors="yizhi.reading.stored_tensors:read_onnx",
            files=("*.onnx", "model.onnx.data"),
            converts_with=("onnx", "onnxruntime"),
            runs_with=("onnxruntime",),
            graphs="yizhi.parity.onnx_graphs:compare_graphs",
            wasm="yizhi.runtimes.wasm_runtime:WasmRuntime",
            extra="onnx",
            export_extra="onnx-export",
            steps=True,
            size=1.2,
        ),
        Target(
            name="openvino",
            precision="fp32",
            converter="yizhi.converters.to_openvino",
            runtime="yizhi.runtimes.openvino_runtime:OpenVinoRuntime",
            tensors="yizhi.reading.openvino_tensors:read_openvino",
            graphs="yizhi.parity.openvino_graphs:compare_graphs",
            files=("*.xml", "openvino_model.bin"),
            converts_with=("openvino",),
            runs_with=("openvino",),
            extra="openvino",
        ),
        Target(
            name="openvino-int8",
            precision="int8",
            converter="yizhi.converters.to_openvino_int8",
            runtime="yizhi.runtimes.openvino_runtime:OpenVinoRuntime",
            tensors="yizhi.reading.openvino_tensors:read_openvino",
            graphs="yizhi.parity.openvino_graphs:compare_graphs",
            files=("*.xml", "openvino_model.bin"),
            converts_with=("openvino", "onnx", "onnxruntime"),
            runs_with=("openvino",),
            extra="openvino",
            export_extra="openvino-export",
            size=1.2,
        ),
        Target(
            name="litert",
            precision="fp32",
            converter="yizhi.converters.to_litert",
            runtime="yizhi.runtimes.litert_runtime:LiteRTRuntime",
            tensors="yizhi.reading.litert_tensors:read_litert",
            files=("model.tflite",),
            converts_with=("ai-edge-litert",),
            runs_with=("ai-edge-litert",),
            graphs="yizhi.parity.litert_graphs:compare_graphs",
            extra="litert",
        ),
        Target(
            name="litert-int8",
            precision="int8",
            converter="yizhi.converters.to_litert_int8",
            runtime="yizhi.runtimes.litert_runtime:LiteRTRuntime",
            tensors="yizhi.reading.litert_tensors:read_litert",
            files=("model.tflite",),
            # Outlier channels are found with the graph of `onnx`.
            converts_with=("ai-edge-litert", "onnx", "onnxruntime"),
            runs_with=("ai-edge-litert",),
            graphs="yizhi.parity.litert_graphs:compare_graphs",
            extra="litert",
            export_extra="litert-export",
            size=1.2,
        ),
    )
}


def find_targets(names: list[str] | None) -> list[Target]:
    """The named targets, or all of them. Raises InputError for unknown names."""
    unknown = [name for name in names or () if name not in TARGETS]
    if unknown:
        told = ", ".join(f"{name}{propose(name, TARGETS)}" for name in unknown)
        raise InputError("`targets`", f"unknown: {told}; known: {', '.join(TARGETS)}")
    return [TARGETS[name] for name in names] if names else list(TARGETS.values())
