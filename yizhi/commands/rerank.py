"""`yizhi rerank`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.commands.options import JSON_HELP, Commands, add_command, named, positive
from yizhi.commands.text_options import (
    add_text_options,
    make_operator,
    make_reporter,
    on_one_line,
    one_text,
    run_bulk,
)
from yizhi.errors import InputError
from yizhi.storage.records import STDIN

if TYPE_CHECKING:
    from yizhi.bulk.job import UnusableRow
    from yizhi.bulk.operators import OperatorSpec
    from yizhi.bulk.progress import Progress
    from yizhi.runtimes import Ranked
    from yizhi.runtimes.batching import Computer, Request

_TOP_K = 10


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "rerank",
        run,
        "order documents by how relevant they are to a query, or score given pairs",
        "Read a query together with each document, and give the most relevant documents, best first.\n\n"
        '  yizhi rerank dist/reranker/onnx-int8 "怎么退房" documents.txt --top-k 3\n'
        "  yizhi rerank dist/reranker/onnx-int8 queries.txt documents.jsonl --output ranks.jsonl\n"
        "  yizhi rerank dist/reranker/onnx-int8 --pairs candidates.jsonl --output scores.jsonl",
    )
    column = ("--query-column", "query", "the query")
    add_text_options(parser, "a query", column=column, pair_column=None, is_optional=True)
    parser.add_argument("documents", nargs="?", type=named, help="a .txt, .jsonl, .csv, .tsv or .parquet file")
    parser.add_argument("--pairs", metavar="FILE", help="with --output: score the pairs of this file, in its order")
    parser.add_argument(
        "--document-column",
        dest="pair_column",
        default="document",
        metavar="COLUMN",
        help="the field or column with the document (default: document)",
    )
    parser.add_argument("--top-k", type=positive, help="documents per query (default: 10)")
    parser.add_argument(
        "--raw",
        action=argparse.BooleanOptionalAction,
        help="scores are logits, not their sigmoid (default: as config.json says, else the sigmoid)",
    )
    parser.add_argument(
        "--long",
        choices=("truncate", "windows", "error"),
        default="truncate",
        help="a document that is too long: cut it, or take the best of its windows (default: truncate)",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    settings = {"raw": options.raw, "long": options.long}
    if options.pairs is not None:
        return _score_pairs(options, settings)
    if options.text is None or options.documents is None:
        raise InputError("rerank", "expected a query and a file of documents, or `pairs`")
    if options.output:
        _refuse_empty(options.text, "queries")
    documents, unusable = _read_documents(options)
    settings |= {"documents": documents, "top_k": options.top_k or _TOP_K, "skip_blank": True}
    operator = make_operator(options, "rank", **settings)
    if unusable:
        usable = len(documents) - len(unusable)
        print(f"{options.documents}: {usable:,} of {len(documents):,} documents", file=sys.stderr)
    if options.output:
        from yizhi.runtimes.batching import WINDOW

        # The rows of a window are held at once, and a query has as many as there are documents.
        options.window = options.window or max(1, WINDOW // len(documents))
        options.pair_column = None  # of the documents' file, and not of the queries'
        return run_bulk(options, operator, earlier=unusable)
    report = make_reporter(options.parser)
    for row in unusable:
        report(f"{row.path}: row {row.number}: {row.fault}")
    ranked = _rank(operator, one_text(options))
    if options.json:
        print(json.dumps([vars(one) for one in ranked], ensure_ascii=False, indent=2))
    else:
        for one in ranked:
            print(f"{one.score:.4f}\t{one.index}\t{on_one_line(one.text)}")
    return 1 if unusable else 0


def _rank(operator: "OperatorSpec", query: str) -> "list[Ranked]":
    """One query's documents, with a progress bar of the rows that they make."""
    from yizhi.bulk.progress import Progress
    from yizhi.runtimes.batching import run_tasks

    with operator.open() as ranker, Progress() as progress:
        task = ranker.plan(query)
        progress.begin(0)
        ranked: list[Ranked] = next(run_tasks(_Counting(ranker, progress, len(task.requests)), [task]))
    return ranked


class _Counting:
    """Computes batches, and tells of each how many rows are done."""

    def __init__(self, computer: "Computer", progress: "Progress", rows: int) -> None:
        self._computer, self._progress, self._rows = computer, progress, rows
        self._done = 0

    def compute(self, requests: "Sequence[Request]") -> list[Any]:
        """One batch, as the operator computes it."""
        results = self._computer.compute(requests)
        self._done += len(results)
        self._progress.advance(self._done, self._done / self._rows)
        return results


def _score_pairs(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """The score of each row of a file that has both a query and a document."""
    faults = []
    if options.text is not None or options.documents is not None:
        faults.append("does not go with a query or documents: the file has both")
    if options.top_k is not None:
        faults.append("`top_k`: is for a query and documents: every pair of the file is scored")
    if options.output is None:
        faults.append("expected `output`, a file for the scores")
    if faults:
        raise InputError("`pairs`", faults)
    _refuse_empty(options.pairs, "pairs")
    options.text = options.pairs
    return run_bulk(options, make_operator(options, "rerank", **settings))


def _read_documents(options: argparse.Namespace) -> "tuple[list[str], list[UnusableRow]]":
    """Every document of the file, blank where its row cannot be used; and these rows.

    Raises InputError where there is no document, or, with `strict`, at the first row that has none.
    """
    from yizhi.bulk.job import UnusableRow
    from yizhi.storage.records import READ_AS, Source, plain_text

    source = Source.of(str(options.documents), None, options.pair_column, None, encoding=options.encoding)
    documents: list[str] = []
    unusable = []
    with source.open(READ_AS) as reader:
        for record in reader:
            text, fault = plain_text(record), record.fault.replace("`column`", "`pair_column`")
            if not fault and not text.strip():
                fault = "expected a document; found an empty one"
            elif any("\ud800" <= char <= "\udfff" for char in text):
                fault = "holds half of a surrogate pair, which is no character"
            documents.append("" if fault else text)
            if fault:
                if options.strict:
                    raise InputError(options.documents, f"row {record.number}: {fault}")
                unusable.append(UnusableRow(str(options.documents), record.number, fault))
    if len(unusable) == len(documents):
        first = [f"row {row.number}: {row.fault}" for row in unusable[:1]]
        raise InputError(options.documents, ["expected one document or more; found none", *first])
    return documents, unusable


def _refuse_empty(path: str, what: str) -> None:
    if path != STDIN and Path(path).is_file() and not Path(path).stat().st_size:
        raise InputError(path, f"is empty: expected {what}")
