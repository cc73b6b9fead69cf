"""The command line. Thin: each command parses its arguments and calls a function that does the work."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from converters.errors import CheckFailed, InputError
from converters.targets import TARGETS, find_targets
from yizhi import __version__

CHECKPOINT_HELP = "a folder, a .safetensors file beside its config.json, or a hub id such as hfl/rbt3"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 when all is good, 1 when a check failed, 2 for bad usage or input."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        print(f"yizhi: {error}", file=sys.stderr)
        return 2
    except CheckFailed as error:
        print(f"yizhi: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"yizhi: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("yizhi: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    parser = argparse.ArgumentParser(
        prog="yizhi",
        description="One checkpoint, every runtime, proven identical.",
        epilog="Exit codes: 0 good; 1 a check failed; 2 bad usage or bad input.",
    )
    parser.add_argument("--version", action="version", version=f"yizhi {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_export(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_synthesize(commands)
    _add_fill_mask(commands)
    return parser


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    help_text: str,
    teaches: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help_text, description=teaches, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "export",
        _export,
        "export a checkpoint to every target and verify each",
        "Export a checkpoint to every target, run each artifact against the float64 oracle, and write\n"
        "manifest.json if all agree. What is up to date is left alone.\n\n"
        "  yizhi export ./bert-base-chinese --out dist/bert-base-chinese\n"
        "  yizhi export hfl/rbt3 --revision 2cb7b8f --out dist/rbt3 --target onnx --target onnx-int8",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="RELEASE", help="the release folder to write")
    parser.add_argument("--target", action="append", metavar="T", help=f"only this target: {', '.join(TARGETS)}")
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument("--json", action="store_true", help="print the result for a machine to read")


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "verify",
        _verify,
        "check a finished release or one artifact",
        "Check that no file was altered, then run every artifact against the golden outputs that\n"
        "travel with the release. Exit code 1, with the file or the first layer that differs, if not.\n\n"
        "  yizhi verify dist/bert-base-chinese\n"
        "  yizhi verify dist/bert-base-chinese/onnx-int8",
    )
    parser.add_argument("path", type=Path, metavar="RELEASE|ARTIFACT")
    parser.add_argument("--target", action="append", metavar="T", help="only this target of the release")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write parity.json there")
    parser.add_argument("--json", action="store_true", help="print the result for a machine to read")


def _add_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "inspect",
        _inspect,
        "say what a checkpoint or an artifact is",
        "Open a checkpoint and account for every tensor, or read what an artifact or release says of itself.\n\n"
        "  yizhi inspect ./bert-base-chinese\n"
        "  yizhi inspect dist/bert-base-chinese/onnx",
    )
    parser.add_argument("path", metavar="CHECKPOINT|ARTIFACT|RELEASE", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument("--json", action="store_true", help="print the result for a machine to read")


def _add_synthesize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "synthesize",
        _synthesize,
        "make a random checkpoint of a given shape",
        "Make a random checkpoint: by default of bert-base-chinese's shape (411 MB), the same bytes\n"
        "everywhere for the same seed. It knows nothing; it is for testing.\n\n"
        "  yizhi synthesize --out build/synthetic\n"
        "  yizhi synthesize --out build/tiny --config tiny/config.json --seed 7",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT", help="the folder to write")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a config.json (default: bert-base-chinese's shape)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the folder is already there")


def _add_fill_mask(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "fill-mask",
        _fill_mask,
        "answer a sentence's [MASK]",
        "Say which tokens an artifact would put in place of each [MASK].\n\n"
        '  yizhi fill-mask dist/bert-base-chinese/onnx-int8 "北京是[MASK]国的首都。"',
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", help="a sentence with [MASK] in it")
    parser.add_argument("--top-k", type=_positive, default=5, help="answers per mask (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the result for a machine to read")


def _export(options: argparse.Namespace) -> int:
    from converters.hub import resolve_checkpoint
    from yizhi.export import export
    from yizhi.progress import Progress

    targets = find_targets(options.target)
    source = resolve_checkpoint(options.checkpoint, options.revision)
    with Progress() as progress:
        rows = export(source.path, options.out, targets, options.jobs, progress, source.origin)
    return _finish(rows, options.out, options.json)


def _verify(options: argparse.Namespace) -> int:
    from yizhi.progress import Progress
    from yizhi.results import write_report
    from yizhi.verify import verify_path

    targets = find_targets(options.target)
    with Progress() as progress:
        rows = verify_path(options.path, targets if options.target else None, options.device, options.jobs, progress)
    if options.report:
        write_report(options.report, rows)
    return _finish(rows, options.path, options.json)


def _finish(rows: list, title: Path, as_json: bool) -> int:
    from rich.console import Console

    from yizhi.results import rows_as_dict
    from yizhi.tables import print_release

    if as_json:
        print(json.dumps(rows_as_dict(rows), ensure_ascii=False, indent=2))
    else:
        # A log is as wide as its lines.
        width = None if sys.stdout.isatty() else 160
        print_release(Console(width=width), title, rows)
    if all(row.passed for row in rows):
        return 0
    return 2 if all(row.passed or row.bad_input for row in rows) else 1


def _inspect(options: argparse.Namespace) -> int:
    from yizhi.inspect import describe, print_description

    description = describe(options.path, options.revision)
    if options.json:
        print(json.dumps(description, ensure_ascii=False, indent=2))
    else:
        print_description(description)
    return 0


def _synthesize(options: argparse.Namespace) -> int:
    from converters.config import read_json_object
    from yizhi.synthesize import DEFAULT_CONFIG, synthesize

    if options.if_missing and (options.out / "model.safetensors").exists():
        return 0
    config = read_json_object(options.config) if options.config else DEFAULT_CONFIG
    synthesize(options.out, config, options.seed)
    print(f"{options.out}: random weights from seed {options.seed}")
    return 0


def _fill_mask(options: argparse.Namespace) -> int:
    from runtimes.fill_mask import FillMask
    from runtimes.tokenization import Tokenizer

    from runtimes import open_runtime

    with open_runtime(options.artifact, device=options.device) as runtime:
        answers = FillMask(runtime, Tokenizer.open(options.artifact))(options.text, top_k=options.top_k)
    if options.json:
        print(json.dumps([[vars(p) for p in mask] for mask in answers], ensure_ascii=False, indent=2))
        return 0
    for number, mask in enumerate(answers, start=1):
        if len(answers) > 1:
            print(f"[MASK] {number}")
        for prediction in mask:
            print(f"{prediction.token}\t{prediction.score:.3f}\t{prediction.sentence}")
    return 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer; found {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
