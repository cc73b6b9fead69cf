"""One model in a process of its own, run when asked: ours or a peer's, in whichever venv has what it needs.

    python -m benchmarks.contestants KIND FOLDER THREADS DEVICE

It opens the model, answers one row of 32 tokens, and says so with a line of JSON. Then it reads requests, a
line of JSON each, from standard input:

    {"do": "run", "batch": 8, "length": 128, "repeats": 3}  -> the seconds of each pass
    {"do": "batch_dependence"}                              -> how far a row's states move in a batch
    {"do": "save", "path": "states.npy"}                    -> its states, for whoever compares them
    {"do": "peak"}                                          -> the process's largest resident memory, in bytes

A pass is token ids in, last hidden states out, as NumPy arrays on both sides; every row is full.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Run = Callable[[dict[str, NDArray[np.int64]]], object]
# Packages whose versions the document gives: the frameworks that ours run on, then what peers have besides.
FRAMEWORKS = ("torch", "onnxruntime", "openvino", "tensorflow", "jax", "flax", "numpy", "safetensors")
PEERS = (
    "transformers",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "tf_keras",
    "ctranslate2",
    "nncf",
    "litert-torch",
    "sentence-transformers",
)
SQUARE = 8192  # of the matrices that a card's rate is measured with


def yizhi(folder: Path, threads: int, device: str) -> Run:
    """An artifact of ours, whichever target."""
    from yizhi.runtimes import open_runtime

    runtime = open_runtime(folder, threads=threads, device=device)
    return lambda inputs: runtime.run(inputs, ["last_hidden_state"])["last_hidden_state"]


def transformers_pytorch(
    folder: Path, threads: int, device: str, compiled: bool = False, precision: str = "fp32"
) -> Run:
    """`AutoModel` with its default, scaled dot-product attention; compiled for each shape where asked.

    precision: fp32, tf32 or bf16, on a GPU.
    """
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModel.from_pretrained(folder, dtype=dtype).to(device).eval()
    model = torch.compile(model, dynamic=False) if compiled else model

    def run(inputs: dict[str, NDArray]) -> NDArray:
        with torch.inference_mode():
            found = model(**{name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
            return found.last_hidden_state.float().cpu().numpy()

    return run


def transformers_tensorflow(folder: Path, threads: int, device: str) -> Run:
    """`TFAutoModel` in a `tf.function`, traced for each shape."""
    from benchmarks.tensorflow_peer import mend_loader

    mend_loader()
    import tensorflow as tf
    from transformers import TFAutoModel

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = tf.function(TFAutoModel.from_pretrained(folder))
    return lambda inputs: model({n: tf.constant(a, tf.int32) for n, a in inputs.items()}).last_hidden_state.numpy()


def transformers_flax(folder: Path, threads: int, device: str) -> Run:
    """`FlaxAutoModel` under `jit`, compiled for each shape."""
    import jax
    from transformers import FlaxAutoModel

    model = FlaxAutoModel.from_pretrained(folder, from_pt=True)
    compute = jax.jit(lambda parameters, inputs: model(**inputs, params=parameters).last_hidden_state)
    return lambda inputs: np.asarray(compute(model.params, {n: a.astype(np.int32) for n, a in inputs.items()}))


def onnx_runtime(folder: Path, threads: int, device: str) -> Run:
    """ONNX Runtime alone on the file that optimum wrote, with its default settings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["last_hidden_state"], inputs)[0]


def ctranslate2_int8(folder: Path, threads: int, device: str) -> Run:
    """CTranslate2's encoder with int8 weights and activations."""
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder), device="cpu", compute_type="int8", intra_threads=threads)
    return lambda inputs: np.array(encoder.forward_batch(inputs["input_ids"].tolist()).last_hidden_state)


def openvino_model(folder: Path, threads: int, device: str, file: str, **settings: str) -> Run:
    """OpenVINO on an IR or ONNX file, compiled for latency."""
    import openvino

    given = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    model = openvino.Core().compile_model(folder / file, "CPU", given)
    request = model.create_infer_request()
    return lambda inputs: request.infer(inputs)["last_hidden_state"]


def optimum_intel(folder: Path, threads: int, device: str, **settings: str) -> Run:
    """optimum-intel's class for OpenVINO graphs, with its defaults: compiled for latency."""
    from optimum.intel import OVModelForFeatureExtraction

    given = {"INFERENCE_NUM_THREADS": str(threads), **settings}
    model = OVModelForFeatureExtraction.from_pretrained(folder, ov_config=given)
    return lambda inputs: model(**inputs).last_hidden_state


def products(folder: Path, threads: int, device: str, library: str) -> Run:
    """A pass's matrix products and nothing else, over weights of their own for each layer, as the pass has."""
    config = json.loads((folder / "config.json").read_text())
    width, inner, heads = (config[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads"))
    rng = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float32]:
        return rng.random(shape, np.float32) - 0.5

    shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]  # [outputs, inputs]
    layers = [[random(*shape) for shape in shapes] for _ in range(config["num_hidden_layers"])]
    if library == "torch":
        import torch

        torch.set_num_threads(threads)
        layers = [[torch.from_numpy(weight) for weight in layer] for layer in layers]

    @cache
    def operands(batch: int, length: int) -> tuple:
        rows = random(batch * length, width), random(batch * length, inner)
        query = random(batch, heads, length, width // heads)
        arrays = (*rows, query, np.ascontiguousarray(query.swapaxes(2, 3)), random(batch, heads, length, length))
        return tuple(map(torch.from_numpy, arrays)) if library == "torch" else arrays

    def run(inputs: dict[str, NDArray]) -> None:
        narrow, wide, query, key, scores = operands(*inputs["input_ids"].shape)
        for layer in layers:
            for weight in layer[:5]:
                narrow @ weight.T
            wide @ layer[5].T
            query @ key
            scores @ query

    return run


def square_product(folder: Path, threads: int, device: str, precision: str) -> Run:
    """One product of 8192×8192 matrices, whatever the inputs: the card's own rate."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    a = torch.rand(SQUARE, SQUARE, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda inputs: (a @ a)[0, 0].item()


PRECISIONS = ("fp32", "tf32", "bf16")
KINDS: Mapping[str, Callable[[Path, int, str], Run]] = {
    "yizhi": yizhi,
    "transformers": transformers_pytorch,
    "torch-compile": partial(transformers_pytorch, compiled=True),
    "tensorflow": transformers_tensorflow,
    "flax": transformers_flax,
    "onnxruntime": onnx_runtime,
    "ctranslate2": ctranslate2_int8,
    "openvino": partial(openvino_model, file="openvino_model.xml"),  # NNCF's, as it runs by default
    "openvino-fp32": partial(openvino_model, file="model.onnx", INFERENCE_PRECISION_HINT="f32"),
    "optimum-intel": partial(optimum_intel, INFERENCE_PRECISION_HINT="f32"),
    "optimum-intel-int8": optimum_intel,
    **{f"transformers-{name}": partial(transformers_pytorch, precision=name) for name in PRECISIONS},
    **{f"products-{name}": partial(square_product, precision=name) for name in PRECISIONS},
    "products-torch": partial(products, library="torch"),
    "products-numpy": partial(products, library="numpy"),
}


def make_inputs(batch: int, length: int) -> dict[str, NDArray[np.int64]]:
    """Full rows of random ids, the same for everyone; 300 entries is the smallest vocabulary that occurs."""
    ids = np.random.default_rng(batch * 1000 + length).integers(5, 300, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def peak_bytes() -> int:
    """This process's largest resident memory so far (not getrusage's, which begins with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def time_passes(run: Run, batch: int, length: int, repeats: int) -> list[float]:
    """Seconds of each of so many passes."""
    inputs, seconds = make_inputs(batch, length), []
    for _ in range(repeats):
        start = time.perf_counter()
        run(inputs)
        seconds.append(time.perf_counter() - start)
    return seconds


def installed_versions() -> dict[str, str]:
    """Of what is installed where this runs."""
    found = {}
    for name in (*FRAMEWORKS, *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_batch_dependence(run: Run) -> float:
    """The largest difference of a row's states alone and in a batch of eight, of the same length."""
    inputs = make_inputs(8, 64)
    alone = np.asarray(run({name: array[:1] for name, array in inputs.items()}))
    return float(np.abs(np.asarray(run(inputs))[:1] - alone).max())


def save_states(run: Run, path: str) -> None:
    """Write the states of four rows of 64 tokens, for whoever compares them."""
    np.save(path, np.asarray(run(make_inputs(4, 64))))


def serve(open_model: Callable[[], Mapping[str, Callable[..., object]]]) -> None:
    """Open the model, say so, and answer requests until standard input ends."""
    # What a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    does = {**open_model(), "peak": peak_bytes}
    answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer(answer=does[request.pop("do")](**request))


def main() -> None:
    """Serve the model that the command line names."""
    kind, folder, threads, device = sys.argv[1:]

    def open_model() -> Mapping[str, Callable[..., object]]:
        run = KINDS[kind](Path(folder), int(threads), device)
        run(make_inputs(1, 32))
        requests = {"run": time_passes, "batch_dependence": find_batch_dependence, "save": save_states}
        return {name: partial(function, run) for name, function in requests.items()}

    serve(open_model)


if __name__ == "__main__":
    main()
