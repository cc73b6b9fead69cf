"""Step time of fine-tuning: rows of similar length together and padded to their longest, against one fixed length.

    python -m benchmarks.training CHECKPOINT DATA [--max-length 128] [--batch-size 16] [--rows 320] [--rounds 3]

DATA is a `.conllu` file (words and their UPOS tags), or SQuAD's `.json`. Every contestant trains the same model on the
same rows: forward, backward and AdamW's step. They take turns, so that a slow minute of the machine falls on all;
each keeps its best round.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.batches import LengthGroupedBatches, collate
from yizhi.training.features import Feature
from yizhi.training.tasks import reading, tagging
from yizhi.training.tasks.faults import Faults
from yizhi.training.transformers_models import build_model

Batches = list[list[Feature]]


def read(data: Path) -> tuple[object, list]:
    """The task, and its examples."""
    if data.suffix == ".json":
        return reading.Reading(), reading.SquadReader().read(data, Faults())
    examples = read_conllu(data)
    return tagging.TaggingReader().make_task(examples), examples


def read_conllu(path: Path) -> list[tagging.Sentence]:
    """Words (FORM) and their tags (UPOS) of https://universaldependencies.org/format.html."""
    sentences = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if line and not line.startswith("#")]
        rows = [row for row in rows if row[0].isdigit()]
        if rows:
            sentences.append(tagging.Sentence(path, 1, tuple(row[1] for row in rows), tuple(row[3] for row in rows)))
    return sentences


def fixed(features: list[Feature], size: int) -> Batches:
    order = np.random.default_rng(0).permutation(len(features)).tolist()
    return [[features[index] for index in order[start : start + size]] for start in range(0, len(order), size)]


def grouped(features: list[Feature], size: int) -> Batches:
    batches = LengthGroupedBatches([feature.length for feature in features], size, seed=0)
    return [[features[index] for index in batch] for batch in batches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    task, examples = read(options.data)
    with Checkpoint.open(options.checkpoint) as checkpoint:
        tokenizer = Tokenizer(checkpoint.text, options.max_length)
        model, _ = build_model(checkpoint, LABEL_CLASS_SUFFIXES[task.name], task.config())
    features = task.encode(examples, tokenizer, Faults())
    features = [features[i] for i in np.random.default_rng(0).permutation(len(features))[: options.rows]]
    lengths = [feature.length for feature in features]
    print(f"{len(features)} rows of {min(lengths)} … {max(lengths)} tokens, {np.mean(lengths):.0f} on average")
    contestants: dict[str, tuple[Batches, int]] = {
        f"fixed length {options.max_length}": (fixed(features, options.batch_size), options.max_length),
        "dynamic padding": (fixed(features, options.batch_size), 1),
        "and length grouping": (grouped(features, options.batch_size), 1),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.train()
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(options.rounds):
        for name, (batches, multiple) in contestants.items():
            seconds = measure(lambda batch: model(**batch).loss, optimizer, batches, tokenizer.pad_id, multiple)
            best[name] = min(best[name], seconds / len(batches))
    slowest = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"{name:20}  {seconds * 1e3:7.0f} ms a step  {seconds / slowest - 1:+.0%}")


def measure(
    loss: Callable[[dict], torch.Tensor], optimizer: torch.optim.Optimizer, batches: Batches, pad_id: int, multiple: int
) -> float:
    start = time.perf_counter()
    for batch in batches:
        loss(collate(batch, pad_id, multiple)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
