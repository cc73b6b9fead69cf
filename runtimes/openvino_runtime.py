"""OpenVINO artifacts, fp32 and int8, on the CPU."""

import threading
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import openvino
from numpy.typing import NDArray

from yizhi.converters.openvino_files import graph_file
from yizhi.converters.quantize import INTEGERS
from yizhi.errors import InputError
from yizhi.model.layout import OPENVINO_WEIGHTS
from yizhi.model.spec import COLUMNS, LOGITS_AT, POSITIONS, Layer
from yizhi.runtimes.base import Inputs, Outputs, Runtime


class OpenVinoRuntime(Runtime):
    """One compiled model per signature, made on first use. It computes every output of the signature.

    float32 is float32 here. By itself, the plugin computes in bfloat16 if the processor has it.
    """

    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict",), "cuda": ()}

    def _open(self) -> None:
        self._core = openvino.Core()
        self._requests: dict[str, openvino.InferRequest] = {}
        self._lock = threading.Lock()  # a compiled model has one stream, so that calls would take turns anyway

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return self._infer(self.signature_for(outputs), inputs.as_dict(), outputs)

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._infer(LOGITS_AT, {**inputs.as_dict(), POSITIONS: positions}, ("logits",))["logits"]

    def _infer(
        self, signature: str, arrays: Mapping[str, NDArray], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            request = self._request(signature)
            request.infer(dict(arrays))
            return {name: request.get_tensor(name).data.copy() for name in outputs}

    def _request(self, signature: str) -> openvino.InferRequest:
        if signature not in self._requests:
            self._requests[signature] = self._compile(self._read(signature))
        return self._requests[signature]

    def _read(self, graph: str) -> openvino.Model:
        """Raises InputError if files are missing or damaged."""
        path = self.artifact.folder / graph_file(graph)
        try:
            return self._core.read_model(path, path.with_name(OPENVINO_WEIGHTS))
        except RuntimeError as error:
            raise InputError(path, f"OpenVINO cannot read the model: {str(error).strip().splitlines()[-1]}") from None

    def _compile(self, model: openvino.Model) -> openvino.InferRequest:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if self.threads:
            settings["INFERENCE_NUM_THREADS"] = str(self.threads)
        return self._core.compile_model(model, "CPU", settings).create_infer_request()

    def settings(self) -> dict[str, str]:
        """The type of floats and the number of threads, as a compiled model reports them."""
        with self._lock:
            compiled = self._request(next(iter(self._requests or self.signatures))).get_compiled_model()
        return {
            "inference_precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
        }

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """What the kernels sum for uint8 rows [N, widest]: NAME.sums [N, outputs]."""
        model = self._read(INTEGERS)
        request = self._compile(model)
        request.infer({"rows": rows})
        names = [output.any_name for output in model.outputs]
        return {"s8s8": {name: request.get_tensor(name).data.copy() for name in names}}

    def find_disagreements(self, inputs: Inputs) -> list[str]:
        """Outputs that must equal a column of `logits`, bit for bit, and do not."""
        columns: dict[str, int] = self.artifact.description.get(COLUMNS, {})
        if not columns:
            return []
        found = self._infer("serving_default", inputs.as_dict(), ("logits", *columns))
        return [
            f"{graph_file('serving_default')}: {name} is not logits[..., {column}]"
            for name, column in columns.items()
            if not np.array_equal(found[name], found["logits"][..., column])
        ]

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """TAPS by the names of the graph's nodes. Empty for a layer that runs several times under one name."""
        model = self._read("hidden_states")
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        spec = self.build_spec(nodes)
        looked_at = spec.layers[layer]
        if spec.layers.count(looked_at) > 1:
            return {}
        found = {tap: nodes[name] for tap, name in find_taps(looked_at, nodes).items()}
        for tap, output in zip(found, model.add_outputs([node.output(0) for node in found.values()]), strict=True):
            output.get_tensor().add_names({tap})
        request = self._compile(model)
        request.infer(inputs.as_dict())
        length = inputs.input_ids.shape[1]
        return {tap: request.get_tensor(tap).data[:, -length:].copy() for tap in found}  # regions may come first

    def forget(self, signature: str) -> None:
        """Close the signature's compiled model."""
        with self._lock:
            self._requests.pop(signature, None)

    def close(self) -> None:
        """Close every compiled model. A running model ends first."""
        with self._lock:
            self._requests.clear()


def find_taps(layer: Layer, nodes: Collection[str]) -> dict[str, str]:
    """For each tap that the graph has, the name of the node that computes it."""
    linear = {
        "query": layer.query,
        "key": layer.key,
        "value": layer.value,
        "attention_output": layer.attention_output,
        "output": layer.output,
    }
    # The last of what a linear layer computes. Without a bias, in int8: its scaling, or the sum with its outliers.
    ends = ("Add", "Sum", "Multiply", "MatMul")
    names = {tap: [f"{part.name}/{end}" for end in ends] for tap, part in linear.items()}
    names["context"] = [f"{layer.query.name.rpartition('.')[0]}/Reshape"]
    names["intermediate"] = [f"{layer.intermediate.name}/{operator}" for operator in ("Gelu", "Relu", "Swish", "Tanh")]
    if layer.gated or layer.up:
        names["intermediate"] = [f"{layer.intermediate.name}/gated"]
    if layer.fused:  # parts of what one linear layer gives
        names |= {tap: [f"{layer.query.name}/{tap}"] for tap in ("query", "key", "value")}
    if layer.norm_first or not layer.attention_norm:
        names["after_attention"] = [f"{layer.attention_output.name}/residual"]
    elif layer.attention_adapter is None:
        names["after_attention"] = [f"{layer.attention_norm.name}/Add"]
    elif layer.attention_adapter.adds is not None:  # the adapter may have read the first
        names["after_attention"] = [f"{layer.attention_norm.name}/Add{again}" for again in ("_1", "")]
    found = {tap: next((name for name in choices if name in nodes), "") for tap, choices in names.items()}
    return {tap: name for tap, name in found.items() if name}
