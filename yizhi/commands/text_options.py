"""The arguments that `fill-mask` and `embed` share: which model, which texts, and where the answers go."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.commands.options import DEVICE_HELP, positive

if TYPE_CHECKING:
    from yizhi.bulk.operators import OperatorSpec

# Bad rows that are named on a terminal where there is no file for them.
_NAMED = 20


def add_text_options(parser: argparse.ArgumentParser, unit: str) -> None:
    """Declare them. `unit` is what a single text is called."""
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", help=f"{unit}; with --output, a .txt, .jsonl, .csv or .parquet file, or - for stdin")
    parser.add_argument("--pair", metavar="TEXT", help="the second text of a pair")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEVICE_HELP)
    parser.add_argument("--threads", type=positive, help="CPU threads (default: the framework's choice)")
    bulk = parser.add_argument_group("a whole file")
    bulk.add_argument(
        "--output", type=Path, metavar="FILE", help="write .jsonl or .parquet (embed: .npy, .safetensors)"
    )
    bulk.add_argument("--format", choices=("txt", "jsonl", "csv"), help="what the input is (default: by its name)")
    bulk.add_argument("--column", default="text", help="the field or column with the text (default: text)")
    bulk.add_argument("--pair-column", metavar="COLUMN", help="the field or column with the second text of a pair")
    bulk.add_argument("--errors", type=Path, metavar="FILE", help="list rows that cannot be used here, as .jsonl")
    bulk.add_argument("--strict", action="store_true", help="stop at the first row that cannot be used")
    bulk.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    bulk.add_argument("--window", type=positive, help="rows sorted by length together (default: 1024)")
    bulk.add_argument("--batch-tokens", type=positive, help="tokens in a batch (default: 512)")


def read_text(options: argparse.Namespace) -> str | tuple[str, str]:
    """The single text or pair."""
    return options.text if options.pair is None else (options.text, options.pair)


def make_operator(options: argparse.Namespace, kind: str, **settings: Any) -> "OperatorSpec":
    """What the command does, on the artifact and the device that the arguments say."""
    from yizhi.bulk.operators import OperatorSpec

    return OperatorSpec(kind, options.artifact, settings, options.device, options.threads)


def run_bulk(options: argparse.Namespace, operator: "OperatorSpec") -> int:
    """Answer a whole file. Returns 1 where some of its rows could not be used."""
    from runtimes.batching import TOKENS, WINDOW
    from yizhi.bulk.progress import Progress
    from yizhi.bulk.readers import Source
    from yizhi.bulk.run import Job, run

    named = 0

    def report(text: str) -> None:
        nonlocal named
        named += 1
        if named <= _NAMED:
            print(f"yizhi: {text}", file=sys.stderr)
        elif named == _NAMED + 1:
            print("yizhi: … --errors FILE lists them all", file=sys.stderr)

    job = Job(
        source=Source.of(options.text, options.format, options.column, options.pair_column),
        output=options.output,
        operator=operator,
        errors=options.errors,
        strict=options.strict,
        overwrite=options.overwrite,
        window=options.window or WINDOW,
        tokens=options.batch_tokens or TOKENS,
    )
    with Progress() as progress:
        position = run(job, progress, report)
    answered = position.records - position.failed
    print(f"{options.output}: {answered:,} of {position.records:,} rows", file=sys.stderr)
    return 1 if position.failed else 0
