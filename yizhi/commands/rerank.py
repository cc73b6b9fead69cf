"""`yizhi rerank`."""

import argparse
import json
from pathlib import Path
from typing import Any

from yizhi.commands.options import JSON_HELP, Commands, add_command, named, positive
from yizhi.commands.text_options import add_text_options, make_operator, on_one_line, one_text, run_bulk
from yizhi.errors import InputError
from yizhi.storage.records import STDIN

_TOP_K = 10
# Bad documents that an error lists.
_NAMED = 20


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
    documents, options.pair_column = _read_documents(options), None
    operator = make_operator(options, "rank", documents=documents, top_k=options.top_k or _TOP_K, **settings)
    if options.output:
        from yizhi.runtimes.batching import WINDOW

        # The rows of a window are held at once, and a query has as many as there are documents.
        options.window = options.window or max(1, WINDOW // len(documents))
        return run_bulk(options, operator)
    query = one_text(options)
    with operator.open() as rank:
        ranked = rank(query)
    if options.json:
        print(json.dumps([vars(one) for one in ranked], ensure_ascii=False, indent=2))
    else:
        for one in ranked:
            print(f"{one.score:.4g}\t{one.index}\t{on_one_line(one.text)}")
    return 0


def _score_pairs(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """The score of each row of a file that has both a query and a document."""
    given = {"a query": options.text, "documents": options.documents, "`top_k`": options.top_k}
    faults = [f"{name}: every pair is scored, and none is chosen" for name, value in given.items() if value is not None]
    if options.output is None:
        faults.append("expected `output`, a file for the scores")
    if faults:
        raise InputError("`pairs`", faults)
    _refuse_empty(options.pairs, "pairs")
    options.text = options.pairs
    return run_bulk(options, make_operator(options, "rerank", **settings))


def _read_documents(options: argparse.Namespace) -> list[str]:
    """Every document of the file. Raises InputError, listing the rows that have none."""
    from yizhi.storage.records import READ_AS, Source, plain_text

    source = Source.of(str(options.documents), None, options.pair_column, None, encoding=options.encoding)
    documents, faults = [], []
    with source.open(READ_AS) as reader:
        for record in reader:
            documents.append(plain_text(record))
            if record.fault:  # which names the column as that of a source of single texts
                faults.append(f"row {record.number}: {record.fault.replace('`column`', '`pair_column`')}")
            elif not documents[-1].strip():
                faults.append(f"row {record.number}: expected a document; found an empty one")
            elif any("\ud800" <= char <= "\udfff" for char in documents[-1]):
                faults.append(f"row {record.number}: holds half of a surrogate pair, which is no character")
    if not documents:
        faults = ["expected one document or more; found none"]
    if faults:
        more = len(faults) - _NAMED
        raise InputError(options.documents, faults[:_NAMED] + ([f"… and {more} more"] if more > 0 else []))
    return documents


def _refuse_empty(path: str, what: str) -> None:
    if path != STDIN and Path(path).is_file() and not Path(path).stat().st_size:
        raise InputError(path, f"is empty: expected {what}")
