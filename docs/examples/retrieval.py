"""The steps of docs/retrieval.md that are not commands of yizhi's: the data, an index, and what was found."""

import argparse
import csv
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np

# Of the passages, every so many is kept out of training: its queries are what is measured.
EVERY = 4
# Wrong passages for each query in training, and how many of them share most characters with the query. A reranker
# would learn from these that shared characters are wrong (docs/decisions/reranker-negatives.md).
WRONG = 4
ALIKE = {"embedder": 3, "reranker": 0}
# Queries to choose the best weights by.
DEV = 60
# Candidates of a query that the reranker reads.
CANDIDATES = 10


def read_cmrc(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Sentences, and questions with the index of the sentence that answers, of a file in CMRC 2018's form (SQuAD's)."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    articles = raw["data"] if isinstance(raw, dict) else raw
    passages: list[str] = []
    queries = []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        sentences = list(re.finditer(r"[^。！？]+[。！？]*", paragraph["context"]))
        for question in paragraph["qas"]:
            start = question["answers"][0]["answer_start"]
            answering = next(
                (index for index, found in enumerate(sentences) if found.start() <= start < found.end()), None
            )
            if answering is not None and question["question"].strip():  # the trial file has an empty one
                queries.append((question["question"], len(passages) + answering))
        passages += [found[0].strip() for found in sentences]
    return passages, queries


def read_lines(paths: Iterable[Path]) -> tuple[list[str], list[tuple[str, int]]]:
    """Lines as passages; the query of each is what its second half says."""
    lines = dict.fromkeys(line for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line)
    return [*lines], [(line[len(line) // 2 :], index) for index, line in enumerate(lines)]


def write_data(passages: Sequence[str], queries: Sequence[tuple[str, int]], out: Path) -> None:
    """documents.jsonl; queries.jsonl, of passages that training does not see; and pairs of both to train with."""
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "documents.jsonl", ({"document": passage} for passage in passages))
    kept = [(query, index) for query, index in queries if index % EVERY == 0]
    write_rows(out / "queries.jsonl", ({"query": query, "relevant": index} for query, index in kept))
    for use, alike in ALIKE.items():
        chosen = random.Random(0)
        for part, rest in {"train": (1, 2), "dev": (3,)}.items():
            asked = [(query, index) for query, index in queries if index % EVERY in rest]
            rows = [["sentence1", "sentence2", "label"]]
            for query, index in asked if part == "train" else asked[:DEV]:
                others = [other for other in range(len(passages)) if other != index and other % EVERY in rest]
                if alike:
                    others.sort(key=lambda other: -len({*query} & {*passages[other]}))
                wrong = others[:alike] + chosen.sample(others[alike:], WRONG - alike)
                rows += [[query, passages[index], "1"], *([query, passages[other], "0"] for other in wrong)]
            with open(out / f"{use}-{part}.csv", "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
    print(f"{len(passages)} documents, {len(kept)} queries to search with")


def search(data: Path, documents: Path, queries: Path, out: Path) -> None:
    """Index the documents' vectors, look for each query's neighbours, and write the candidates as pairs."""
    vectors, wanted = np.load(documents), np.load(queries)
    index = faiss.IndexFlatIP(vectors.shape[1])  # inner products of vectors of norm 1 are cosines
    index.add(vectors)
    _, found = index.search(wanted, CANDIDATES)
    passages = [row["document"] for row in read_rows(data / "documents.jsonl")]
    asked = read_rows(data / "queries.jsonl")
    print_recall(found.tolist(), [row["relevant"] for row in asked])
    write_rows(
        out,
        (
            {"query": row["query"], "document": passages[index], "of": number, "index": int(index)}
            for number, (row, indices) in enumerate(zip(asked, found, strict=True))
            for index in indices
        ),
    )


def score(data: Path, candidates: Path, scores: Path) -> None:
    """Put each query's candidates into the order of the reranker's scores."""
    found = defaultdict(list)
    for pair, scored in zip(read_rows(candidates), read_rows(scores), strict=True):
        found[pair["of"]].append((-scored["score"], pair["index"]))
    ranked = [[index for _, index in sorted(found[number])] for number in sorted(found)]
    print_recall(ranked, [row["relevant"] for row in read_rows(data / "queries.jsonl")])


def print_recall(found: Sequence[Sequence[int]], relevant: Sequence[int]) -> None:
    """The share of queries whose document is among the first 1, 5 and 10."""
    for most in (1, 5, 10):
        hits = sum(right in indices[:most] for indices, right in zip(found, relevant, strict=True))
        print(f"recall@{most} {hits / len(relevant):.3f}", end="\n" if most == 10 else "  ")


def read_rows(path: Path) -> list[dict]:
    """Objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("data", help="DATA, and a .json in CMRC's form or files of lines")
    step.add_argument("data", type=Path)
    step.add_argument("sources", type=Path, nargs="+")
    step = steps.add_parser("search", help="DATA, vectors of its documents and of its queries, candidates to write")
    step.add_argument("paths", type=Path, nargs=4)
    step = steps.add_parser("score", help="DATA, candidates, and their scores")
    step.add_argument("paths", type=Path, nargs=3)
    options = parser.parse_args()
    if options.step == "data":
        is_cmrc = options.sources[0].suffix == ".json"
        write_data(*(read_cmrc(options.sources[0]) if is_cmrc else read_lines(options.sources)), options.data)
    else:
        {"search": search, "score": score}[options.step](*options.paths)
