"""The arguments that the commands on texts share: which model, which texts, and where the answers go."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.choices import DEVICES
from yizhi.commands.options import DEVICE_HELP, name_flags, named, positive
from yizhi.errors import InputError, printable
from yizhi.storage.records import PIPED_FORMATS, STDIN, UTF_8

if TYPE_CHECKING:
    from yizhi.bulk.job import Engine, UnusableRow
    from yizhi.bulk.operators import OperatorSpec

# Bad rows that are named on a terminal where there is no file for them.
_NAMED = 20


# The options that name columns, with their defaults and what they hold.
TEXT_COLUMN = ("--column", "text", "the text")
PAIR_COLUMN = ("--pair-column", None, "the second text of a pair")


def add_text_options(
    parser: argparse.ArgumentParser,
    unit: str,
    column: tuple[str, str, str] = TEXT_COLUMN,
    pair_column: tuple[str, str | None, str] | None = PAIR_COLUMN,
    formats: str = ".jsonl or .parquet",
    is_optional: bool = False,
) -> None:
    """Declare them. unit: the name of a single text. formats: those of --output.

    is_optional: whether the text may be left out.
    """
    parser.add_argument("artifact", type=named)
    files = f"{'' if pair_column and pair_column[1] else '.txt, '}.jsonl, .csv, .tsv or .parquet"
    parser.add_argument(
        "text", nargs="?" if is_optional else None, help=f"{unit}; with --output, a {files} file, or - for stdin"
    )
    if pair_column == PAIR_COLUMN:
        parser.add_argument("--pair", metavar="TEXT", help="the second text of a pair")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help=DEVICE_HELP)
    parser.add_argument("--threads", type=positive, help="CPU threads (default: the framework's choice)")
    bulk = parser.add_argument_group("a whole file")
    bulk.add_argument("--output", type=named, metavar="FILE", help=f"write {formats}")
    bulk.add_argument("--format", choices=PIPED_FORMATS, help="format of the input (default: by its name)")
    bulk.add_argument(
        "--encoding", default=UTF_8, help="encoding of a text file, such as gb18030 or utf-16 (default: utf-8)"
    )
    parser.set_defaults(pair_column=None)
    for destination, declared in (("column", column), ("pair_column", pair_column)):
        if declared:
            option, default, holds = declared
            usual = f" (default: {default})" if default else ""
            help_text = f"the field or column with {holds}{usual}"
            bulk.add_argument(option, dest=destination, default=default, metavar="COLUMN", help=help_text)
    bulk.add_argument(
        "--errors", type=named, metavar="FILE", help="write rows that cannot be used to this file, as .jsonl"
    )
    bulk.add_argument("--strict", action="store_true", help="stop at the first row that cannot be used")
    bulk.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    bulk.add_argument("--window", type=positive, help="rows sorted by length together (default: 1024)")
    bulk.add_argument("--batch-tokens", type=positive, help="tokens in a batch (default: 512)")
    engine = parser.add_argument_group("a whole file on many processors or machines")
    engine.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: workers of a Ray cluster")
    engine.add_argument(
        "--address", help="the cluster: auto or HOST:PORT (default: $RAY_ADDRESS, else one on this machine)"
    )
    engine.add_argument(
        "--workers", type=positive, help="workers, each with a model and --threads (default: as many as fit)"
    )


def one_text(options: argparse.Namespace) -> str:
    """The single text. Raises InputError for the name of a file, whose lines were meant."""
    text: str = options.text
    if text == STDIN or _is_file(text):
        what = "standard input" if text == STDIN else "is a file"
        raise InputError(text, f"{what}: give `output` to answer its rows, or give another text")
    return text


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero in it
        return False


def read_text(options: argparse.Namespace) -> str | tuple[str, str]:
    """The single text or pair. Raises InputError for the name of a file."""
    return one_text(options) if options.pair is None else (options.text, options.pair)


def format_score(score: float) -> str:
    """A probability in few digits, none of them lost where it is small."""
    return f"{score:.3f}" if score >= 0.001 else f"{score:.1e}"


def on_one_line(text: str) -> str:
    """Text for a line of a table: line ends, tabs and control characters are escaped."""
    return printable(text).replace("\n", "\\n")


def choose_long(options: argparse.Namespace) -> str | int:
    """How long texts are read, by `--stride`; without it, in windows that share a quarter."""
    if options.stride is None:
        return "windows"
    if options.stride < 0:
        raise InputError("--stride", f"expected 0 or more; found {options.stride}")
    stride: str | int = options.stride
    return stride


def make_operator(options: argparse.Namespace, kind: str, **settings: Any) -> "OperatorSpec":
    """The command's operator, on the artifact and the device of the arguments."""
    from yizhi.bulk.operators import OperatorSpec

    return OperatorSpec(kind, options.artifact, settings, options.device, options.threads)


def run_bulk(
    options: argparse.Namespace,
    operator: "OperatorSpec",
    words: bool = False,
    earlier: "Sequence[UnusableRow]" = (),
) -> int:
    """Answer a whole file, of lists of words if `words`. Returns 1 where some of its rows could not be used.

    earlier: rows of another file that could not be used either.
    """
    from yizhi.bulk.job import Job
    from yizhi.bulk.progress import Progress
    from yizhi.bulk.run import run
    from yizhi.runtimes.batching import TOKENS, WINDOW
    from yizhi.storage.records import Source

    job = Job(
        source=Source.of(
            options.text, options.format, options.column, options.pair_column, words, encoding=options.encoding
        ),
        output=options.output,
        operator=operator,
        earlier=tuple(earlier),
        errors=options.errors,
        strict=options.strict,
        overwrite=options.overwrite,
        window=options.window or WINDOW,
        tokens=options.batch_tokens or TOKENS,
    )
    engine = _choose_engine(options)
    with Progress() as progress:
        position = run(job, progress, make_reporter(options.parser), engine)
    answered = position.records - position.failed
    print(f"{options.output}: {answered:,} of {position.records:,} rows", file=sys.stderr)
    return 1 if position.failed or earlier else 0


def make_reporter(parser: argparse.ArgumentParser) -> Callable[[str], None]:
    """A function that names bad rows on standard error, up to 20 of them, with this command's flags."""
    named = 0

    def report(text: str) -> None:
        nonlocal named
        named += 1
        if named <= _NAMED:
            print(f"yizhi: {name_flags(text, parser)}", file=sys.stderr)
        elif named == _NAMED + 1:
            print("yizhi: … --output with --errors FILE lists them all", file=sys.stderr)

    return report


def _choose_engine(options: argparse.Namespace) -> "Engine":
    from yizhi.bulk.job import answer_here
    from yizhi.bulk.ray_engine import RayEngine

    if options.engine == "ray":
        return RayEngine(options.address, options.workers)
    for name in ("address", "workers"):
        if getattr(options, name) is not None:
            raise InputError(f"`{name}`", "is for --engine ray")
    return answer_here
