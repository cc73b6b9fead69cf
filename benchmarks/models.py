"""Who takes part in the passes of `make bench`: each contestant, its model, and its venv."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.aims import OPENVINO
from benchmarks.workbench import OURS, PEERS, PEERS_5, Workbench


class Model(NamedTuple):
    """What a contestant opens. kind: in `benchmarks.contestants`. make: gives its folder. venv: in `VENVS`."""

    kind: str
    make: Callable[[Workbench], Path]
    venv: str

    @classmethod
    def ours(cls, target: str) -> Self:
        """Our artifact for a target."""
        return cls(OURS, lambda bench: bench.ours(target), OURS)

    @classmethod
    def of(cls, kind: str, venv: str = PEERS, model: str | None = None) -> Self:
        """A peer on a model that `Workbench.peer` makes, or on the checkpoint itself."""
        return cls(kind, lambda bench: bench.peer(model) if model else bench.checkpoint(), venv)


# row -> contestant -> its model
FP32: Mapping[str, Mapping[str, Model]] = {
    "pytorch": {
        OURS: Model.ours("pytorch"),
        "transformers 5": Model.of("transformers", PEERS_5),
        "transformers 5, torch.compile": Model.of("torch-compile", PEERS_5),
    },
    "onnx": {
        OURS: Model.ours("onnx"),
        "optimum O1": Model.of("onnxruntime", model="optimum-O1"),
        "optimum O3": Model.of("onnxruntime", model="optimum-O3"),
    },
    "openvino": {
        OURS: Model.ours("openvino"),
        "optimum's graph": Model.of("openvino-fp32", model="optimum"),
        "optimum-intel": Model.of("optimum-intel", PEERS_5, model="optimum-intel"),
    },
    "tensorflow": {
        OURS: Model.ours("tensorflow"),
        "transformers TF": Model.of("tensorflow"),
    },
    "flax": {
        OURS: Model.ours("flax"),
        "transformers Flax": Model.of("flax"),
    },
}
INT8: Mapping[str, Mapping[str, Model]] = {
    "int8": {
        OURS: Model.ours("onnx-int8"),
        "optimum avx512_vnni": Model.of("onnxruntime", model="optimum-int8"),
        "CTranslate2": Model.of("ctranslate2", model="ctranslate2"),
        "OpenVINO": Model.of("openvino", model="openvino"),
        "optimum-intel, int8 weights": Model.of("optimum-intel-int8", PEERS_5, model="optimum-intel-int8"),
        OPENVINO: Model.ours("openvino-int8"),
    }
}
PRODUCTS: Mapping[str, Model] = {
    "products, torch": Model.of("products-torch", OURS),
    "products, numpy": Model.of("products-numpy", OURS),
}
