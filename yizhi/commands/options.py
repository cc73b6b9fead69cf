"""What several commands share: arguments, and the way a result is printed."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from yizhi.pipeline.results import Row
    from yizhi.release.policy_verdict import PolicyVerdict

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

CHECKPOINT_HELP = "a folder, a .safetensors file beside its config.json, or a hub id such as hfl/rbt3"
DEVICE_HELP = "where to run (default: cpu)"
NOT_RUN = 3  # nothing failed, and something could not be run or judged here
JSON_HELP = "print the result as JSON"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help_text: str,
    teaches: str,
) -> argparse.ArgumentParser:
    """Declare one command: `help_text` in the list, `teaches` with examples in its own help."""
    parser = commands.add_parser(
        name, help=help_text, description=teaches, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def name_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """The library's text with this command's flags in place of the parameters, which it names as `name`."""
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), text)


def make_console() -> "Console":
    """Standard output: as wide as the terminal; in a log, as wide as its lines."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def add_require_mlm(parser: argparse.ArgumentParser) -> None:
    """Declare `--require-mlm`."""
    parser.add_argument(
        "--require-mlm",
        action="store_true",
        help="fail (exit code 1) unless the masked-language-model head proves to be trained",
    )


def add_ignore_file(parser: argparse.ArgumentParser, recorded: str = "") -> None:
    """Declare `--ignore-file`. recorded: a clause that says where the names are recorded."""
    parser.add_argument(
        "--ignore-file",
        dest="ignored_files",
        action="append",
        default=[],
        metavar="NAME",
        help=f"ignore this file of the checkpoint, though it could change an answer{recorded}",
    )


def finish(
    rows: "list[Row]",
    title: Path,
    as_json: bool,
    require_mlm: bool = False,
    policy: "PolicyVerdict | None" = None,
    vouched: str | None = None,
) -> int:
    """Print the rows and return the exit code.

    policy: the verdict of a policy on the release. vouched: a line that says who signed the manifest, if anyone.
    """
    from yizhi.pipeline.head import find_head, is_trained
    from yizhi.pipeline.results import rows_as_dict
    from yizhi.reports.tables import print_release
    from yizhi.runtimes.processor import describe_int8_kernels, lacks_vnni

    if as_json:
        told = {**rows_as_dict(rows), **({"policy": policy.as_dict()} if policy else {})}
        print(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        print_release(make_console(), title, rows, policy, vouched)
    if lacks_vnni() and any(row.target == "onnx-int8" for row in rows):
        kernels = describe_int8_kernels()
        said = (
            "onnx-int8 gives the same answers as elsewhere, in a quarter of the memory, and may be no faster than onnx"
        )
        print(f"yizhi: this processor has {kernels}: {said} (docs/int8.md)", file=sys.stderr)
    judged: list[Row | PolicyVerdict] = [*rows, *([policy] if policy else [])]
    not_passed = [one for one in judged if not one.passed]
    if not not_passed:
        if not require_mlm or is_trained(find_head({row.target: row.verdict for row in rows})):
            return 0
        print("yizhi: --require-mlm: the masked-language-model head did not prove to be trained", file=sys.stderr)
        return 1
    return explain_failure(not_passed)


def explain_failure(not_passed: "Sequence[Row | PolicyVerdict]") -> int:
    """The exit code where these did not pass: 3 if none was run, 2 if that or bad input is why, else 1."""
    if all(one.not_run for one in not_passed):
        return NOT_RUN
    return 2 if all(one.not_run or one.bad_input for one in not_passed) else 1


def named(text: str) -> Path:
    """An argument that names a file or folder. An empty one, as of an unset variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name; found nothing")
    return Path(text)


def positive(text: str) -> int:
    """An argument that is a positive integer."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer; found {text!r}")
    return int(text)
