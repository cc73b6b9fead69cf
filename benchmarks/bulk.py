"""Embedding many sentences: real tokens a second, ours against peers, in one process with the same threads.

    python benchmarks/bulk.py RELEASE [--sentences 2000] [--threads 2] [--rounds 3]

RELEASE holds `onnx-int8` and `pytorch`. Sentences have log-normal lengths: 50 characters on average, up
to 510. Contestants take turns, so that a slow minute of the machine falls on all; each keeps its best
round. Padding to 512 is measured on one sentence in `--every` of them: its cost does not depend on how many
there are. A peer that is not installed is said to be so, never left out.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtimes import Embedder, Tokenizer, open_runtime
from runtimes.tokenization import pad

# Nothing is fetched: every model is a folder.
os.environ["HF_HUB_OFFLINE"] = "1"
BATCH_SIZES = (1, 8, 32)

Contestant = Callable[[list[str]], object]


def make_sentences(count: int, vocab: list[str], seed: int = 0) -> list[str]:
    """Sentences of random Chinese characters."""
    rng = np.random.default_rng(seed)
    characters = [token for token in vocab if len(token) == 1 and "一" <= token <= "鿿"]
    # A log-normal of mean exp(m + s²/2) = 50 with s = 0.8.
    lengths = np.clip(np.exp(rng.normal(np.log(50) - 0.32, 0.8, count)).round(), 2, 510).astype(int)
    return ["".join(rng.choice(characters, length)) for length in lengths]


def pad_to_512(folder: Path, threads: int) -> Contestant:
    """Our own artifact, fed as `padding="max_length"` does it."""
    runtime, tokenizer = open_runtime(folder, threads=threads), Tokenizer.open(folder)

    def run(sentences: list[str]) -> None:
        for start in range(0, len(sentences), 4):
            rows = tokenizer.tokenize(sentences[start : start + 4])
            runtime.run(pad(rows, tokenizer.pad_id, multiple=512), ["last_hidden_state"])

    return run


def optimum_pipeline(folder: Path, threads: int, batch_size: int) -> Contestant:
    """transformers' pipeline over optimum, on the same int8 graph, padding each batch to its longest."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer, pipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForFeatureExtraction.from_pretrained(folder, file_name="features.onnx", session_options=options)
    extract = pipeline("feature-extraction", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    return lambda sentences: extract(sentences, batch_size=batch_size, return_tensors=True)


def sentence_transformers(folder: Path, threads: int, batch_size: int, backend: str) -> Contestant:
    """`encode`, which sorts all sentences by length; mean pooling, as ours."""
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    onnx = {"file_name": "features.onnx", "session_options": options} if backend == "onnx" else {}
    model = SentenceTransformer(str(folder), backend=backend, device="cpu", model_kwargs=onnx)
    return lambda sentences: model.encode(sentences, batch_size=batch_size, show_progress_bar=False)


def ctranslate2_encoder(folder: Path, threads: int, tokens: int) -> Contestant:
    """CTranslate2's int8 encoder, on batches sorted by length."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as temporary:
        converted = TransformersConverter(str(folder)).convert(temporary, quantization="int8", force=True)
        encoder = ctranslate2.Encoder(converted, device="cpu", compute_type="int8", intra_threads=threads)
    tokenizer = Tokenizer.open(folder)

    def run(sentences: list[str]) -> None:
        from runtimes.batching import make_batches

        rows = tokenizer.tokenize(sentences)
        for batch in make_batches([len(row.ids) for row in rows], tokens):
            found = encoder.forward_batch([rows[index].ids.tolist() for index in batch])
            np.array(found.last_hidden_state)

    return run


def main() -> None:
    """Run it and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=20, help="pad-to-512 takes one sentence in so many")
    options = parser.parse_args()
    int8, torch_folder = options.release / "onnx-int8", options.release / "pytorch"
    tokenizer = Tokenizer.open(int8)
    sentences = make_sentences(options.sentences, tokenizer.vocab)
    middle = sentences[0][:1] * 49  # 51 tokens: the mean length
    ours = Embedder(open_runtime(int8, threads=options.threads))
    threads = options.threads

    # name -> (how to make it, its sentences)
    entries: dict[str, tuple[Callable[[], Contestant], list[str]]] = {
        "yizhi onnx-int8": (lambda: ours, sentences),
        "(a) padded to 512": (lambda: pad_to_512(int8, threads), sentences[:: options.every]),
        "(e) ours, all of one length": (lambda: ours, [middle] * len(sentences)),
        "(d) CTranslate2 int8, sorted": (lambda: ctranslate2_encoder(torch_folder, threads, 2048), sentences),
    }
    for size in BATCH_SIZES:
        entries[f"(b) optimum pipeline, batches of {size}"] = (
            lambda size=size: optimum_pipeline(int8, threads, size),
            sentences,
        )
    for backend, folder in {"onnx": int8, "torch": torch_folder}.items():
        entries[f"(c) sentence-transformers encode, {'int8 ' if backend == 'onnx' else 'fp32 '}{backend}"] = (
            lambda backend=backend, folder=folder: sentence_transformers(folder, threads, 32, backend),
            sentences,
        )
    print_table(measure(entries, tokenizer, options.rounds))


def measure(
    entries: dict[str, tuple[Callable[[], Contestant], list[str]]], tokenizer: Tokenizer, rounds: int
) -> dict[str, float | str]:
    """Real tokens a second of each one's best round, or why it did not run."""
    best: dict[str, float | str] = {}
    contestants = {}
    for name, (make, sentences) in entries.items():
        try:
            contestants[name] = make()
        except ImportError as error:
            best[name] = f"not installed: {error}"
            continue
        contestants[name](sentences[:4])
    for _ in range(rounds):
        for name, run in contestants.items():
            sentences = entries[name][1]
            tokens = sum(len(row.ids) for row in tokenizer.tokenize(sentences))
            start = time.perf_counter()
            run(sentences)
            rate = tokens / (time.perf_counter() - start)
            best[name] = max(rate, best.get(name, 0.0))
    return {name: best[name] for name in entries}


def print_table(rates: dict[str, float | str]) -> None:
    """Tokens a second, and ours over theirs."""
    ours = rates["yizhi onnx-int8"]
    print("| | real tokens a second | ours / theirs |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate} | |" if isinstance(rate, str) else f"| {name} | {rate:,.0f} | {ours / rate:.2f} |")


if __name__ == "__main__":
    main()
