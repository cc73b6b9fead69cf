"""`yizhi export`."""

import argparse
import os
from pathlib import Path

from yizhi.commands.options import (
    CHECKPOINT_HELP,
    JSON_HELP,
    Commands,
    add_command,
    add_ignore_file,
    add_require_mlm,
    finish,
    positive,
)
from yizhi.converters.targets import TARGETS, find_targets
from yizhi.errors import InputError
from yizhi.model.spec import POOLINGS, Pooling


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "export",
        run,
        "export a checkpoint to every target and verify each",
        "Export a checkpoint to every target, run each artifact against the float64 oracle, and write\n"
        "manifest.json if all agree. What is up to date is left alone.\n\n"
        "  yizhi export ./bert-base-chinese --out dist/bert-base-chinese\n"
        "  yizhi export hfl/rbt3 --revision 2cb7b8f --out dist/rbt3 --target onnx --target onnx-int8",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="RELEASE", help="the release folder to write")
    parser.add_argument(
        "--target", dest="targets", action="append", metavar="T", help=f"only this target: {', '.join(TARGETS)}"
    )
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument(
        "--jobs", type=positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument(
        "--keep-fp32",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAMES",
        help="int8: leave these in float32, such as encoder.layer.11,cls (see `yizhi int8-report`)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="int8: find outlier channels on these lines (default: everyday sentences, where the vocabulary fits)",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="also give sentence_embedding, each row's own tokens as one vector (docs/using.md)",
    )
    parser.add_argument("--normalize", action="store_true", help="with --pooling: make its L2 norm 1")
    add_ignore_file(parser, "; the manifest records it")
    add_require_mlm(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.export import export
    from yizhi.pipeline.progress import Progress
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.reports.report import write_report

    targets = find_targets(options.targets)
    if options.normalize and not options.pooling:
        raise InputError("--normalize", f"expected --pooling {', '.join(POOLINGS)} with it")
    pooling = Pooling(options.pooling, options.normalize) if options.pooling else None
    source = resolve_checkpoint(options.checkpoint, options.revision)
    with Progress() as progress:
        given = {"keep_fp32": sorted(options.keep_fp32)}
        int8_options = {name: value for name, value in given.items() if value}
        rows = export(
            source.path,
            options.out,
            targets,
            options.jobs,
            progress,
            source.origin,
            int8_options,
            pooling,
            options.calibration,
            options.ignored_files,
        )
    if any(row.export or row.verification for row in rows):
        write_report(options.out / "report", rows)
    return finish(rows, options.out, options.json, options.require_mlm)
