"""Embedding many sentences of many lengths: real tokens a second, ours against peers.

A section of `make bench`; each contestant is a process of its own:

    python -m benchmarks.bulk KIND FOLDER THREADS DEVICE      serves one, as `benchmarks.contestants` does

Lengths are log-normal: 50 characters on average, up to 510. A contestant that does not look across batches is
given one sentence in some, since its rate does not depend on how many there are.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contestants import serve

if TYPE_CHECKING:
    from benchmarks.workbench import Rows, Workbench

Embed = Callable[[list[str]], object]
SENTENCES, SENTENCES_QUICK = 2000, 60


def yizhi(folder: Path, threads: int) -> Embed:
    """Our Embedder, which sorts by length and keeps to a number of tokens a batch."""
    from yizhi.runtimes import Embedder, open_runtime

    return Embedder(open_runtime(folder, threads=threads))


def yizhi_padded(folder: Path, threads: int) -> Embed:
    """Our own artifact, fed as `padding="max_length"` does it."""
    from yizhi.runtimes import Tokenizer, open_runtime
    from yizhi.runtimes.tokenization import pad

    runtime, tokenizer = open_runtime(folder, threads=threads), Tokenizer.open(folder)

    def run(sentences: list[str]) -> None:
        for start in range(0, len(sentences), 4):
            rows = tokenizer.tokenize(sentences[start : start + 4])
            runtime.run(pad(rows, tokenizer.pad_id, multiple=512), ["last_hidden_state"])

    return run


def optimum_pipeline(folder: Path, threads: int, batch_size: int) -> Embed:
    """transformers' pipeline over optimum, on our int8 graph, padding each batch to its longest."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer, pipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForFeatureExtraction.from_pretrained(folder, file_name="features.onnx", session_options=options)
    extract = pipeline("feature-extraction", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    return lambda sentences: extract(sentences, batch_size=batch_size, return_tensors=True)


def sentence_transformers(folder: Path, threads: int, backend: str) -> Embed:
    """`encode`, which sorts all sentences by length; mean pooling, as ours; batches of 32, its default."""
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    settings: dict[str, dict[str, Any]] = {
        "torch": {},
        "onnx": {"file_name": "features.onnx", "session_options": options},
        "openvino": {"ov_config": {"INFERENCE_NUM_THREADS": str(threads)}},
    }
    model = SentenceTransformer(str(folder), backend=backend, device="cpu", model_kwargs=settings[backend])
    return lambda sentences: model.encode(sentences, show_progress_bar=False)


def ctranslate2_sorted(folder: Path, threads: int) -> Embed:
    """CTranslate2's int8 encoder on our tokens, in batches sorted by length of at most 2,048 tokens."""
    import ctranslate2

    from yizhi.runtimes import Tokenizer
    from yizhi.runtimes.batching import make_batches

    encoder = ctranslate2.Encoder(str(folder), device="cpu", compute_type="int8", intra_threads=threads)
    tokenizer = Tokenizer.open(folder / "tokenizer")

    def run(sentences: list[str]) -> None:
        rows = tokenizer.tokenize(sentences)
        for batch in make_batches([len(row.ids) for row in rows], 2048):
            np.array(encoder.forward_batch([rows[index].ids.tolist() for index in batch]).last_hidden_state)

    return run


KINDS: Mapping[str, Callable[[Path, int], Embed]] = {
    "yizhi": yizhi,
    "yizhi-padded": yizhi_padded,
    "ctranslate2": ctranslate2_sorted,
    **{f"pipeline-{size}": partial(optimum_pipeline, batch_size=size) for size in (1, 8, 32)},
    **{
        f"sentence-transformers-{backend}": partial(sentence_transformers, backend=backend)
        for backend in ("torch", "onnx", "openvino")
    },
}
# What the document calls it -> its kind, the venv that runs it, which model of the workbench's, and one sentence in how
# many. sentence-transformers 6 has no ONNX backend here: see benchmarks/peers-5.txt.
CONTESTANTS: Mapping[str, tuple[str, str, str, int]] = {
    "yizhi": ("yizhi", "yizhi", "onnx-int8", 1),
    "yizhi, OpenVINO int8": ("yizhi", "yizhi", "openvino-int8", 1),
    "CTranslate2 int8, sorted": ("ctranslate2", "peers", "ctranslate2", 1),
    "sentence-transformers 5, our int8 graph": ("sentence-transformers-onnx", "peers", "onnx-int8", 1),
    "sentence-transformers 6, our OpenVINO int8 graph": (
        "sentence-transformers-openvino",
        "peers-5",
        "features of openvino-int8",
        1,
    ),
    "sentence-transformers 6, fp32 PyTorch": ("sentence-transformers-torch", "peers-5", "pytorch", 5),
    "optimum pipeline, our int8 graph, batches of 1": ("pipeline-1", "peers", "onnx-int8", 5),
    "optimum pipeline, our int8 graph, batches of 8": ("pipeline-8", "peers", "onnx-int8", 5),
    "optimum pipeline, our int8 graph, batches of 32": ("pipeline-32", "peers", "onnx-int8", 5),
    "yizhi, padded to 512": ("yizhi-padded", "yizhi", "onnx-int8", 40),
    "yizhi, all of one length": ("yizhi", "yizhi", "onnx-int8", 2),
}


def make_sentences(count: int, vocab: list[str], seed: int = 0) -> list[str]:
    """Sentences of random Chinese characters."""
    rng = np.random.default_rng(seed)
    characters = [token for token in vocab if len(token) == 1 and "一" <= token <= "鿿"]
    # A log-normal of mean exp(m + s²/2) = 50 with s = 0.8.
    lengths = np.clip(np.exp(rng.normal(np.log(50) - 0.32, 0.8, count)).round(), 2, 510).astype(int)
    return ["".join(rng.choice(characters, length)) for length in lengths]


def measure(bench: "Workbench") -> "Rows":
    """Real tokens a second of each, one process after another, so that none waits in another's memory."""
    from yizhi.runtimes import Tokenizer

    tokenizer = Tokenizer.open(bench.ours("onnx-int8"))
    sentences = make_sentences(SENTENCES_QUICK if bench.quick else SENTENCES, tokenizer.vocab)
    equal = [sentences[0][:1] * 49] * len(sentences)  # 51 tokens: the mean length

    # Else a target of ours.
    make = {"ctranslate2": bench.peer, "features of openvino-int8": lambda _: bench.features("openvino-int8")}

    # Each costs as long to start as its sentences take.
    left_out = [name for name in CONTESTANTS if bench.quick and name.endswith(("batches of 1", "batches of 32"))]

    def entry(name: str, kind: str, venv: str, model: str, every: int) -> Callable[[], dict[str, Any]]:
        given = (equal if name.endswith("one length") else sentences)[:: min(every, len(sentences) // 3)]
        path = bench.folder / "sentences.json"

        def ask() -> dict[str, Any]:
            folder = make.get(model, bench.ours)(model)
            path.write_text(json.dumps(given))
            with bench.contestant(kind, folder, venv, module="benchmarks.bulk") as contestant:
                seconds = contestant.ask(do="embed", path=str(path))
            return {"rate": sum(len(row.ids) for row in tokenizer.tokenize(given)) / seconds}

        return ask

    entries = {name: entry(name, *made_of) for name, made_of in CONTESTANTS.items() if name not in left_out}
    measured = bench.take_turns("bulk", entries, 1)
    return {"bulk": {**measured, **{name: {"not_run": "left out of quick runs"} for name in left_out}}}


def _embed(run: Embed, path: str) -> float:
    """Seconds for all sentences of a file."""
    sentences = json.loads(Path(path).read_text())
    start = time.perf_counter()
    run(sentences)
    return time.perf_counter() - start


def main() -> None:
    """Serve one contestant."""
    kind, folder, threads, _ = sys.argv[1:]

    def open_model() -> Mapping[str, Callable[..., object]]:
        run = KINDS[kind](Path(folder), int(threads))
        run(["一二三四"])
        return {"embed": partial(_embed, run)}

    serve(open_model)


if __name__ == "__main__":
    main()
