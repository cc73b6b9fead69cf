"""`yizhi export`."""

import argparse
from functools import partial

from yizhi.commands.conversion_options import add_conversion_options, read_int8_options, read_pooling
from yizhi.commands.options import JSON_HELP, Commands, add_command, add_require_mlm, finish, name_flags
from yizhi.converters.targets import find_targets


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "export",
        run,
        "export a checkpoint to every target and verify each",
        "Export a checkpoint to every target, compare each artifact with the float64 oracle, and write\n"
        "manifest.json if all agree. Artifacts that are up to date stay as they are.\n\n"
        "  yizhi export ./bert-base-chinese --out dist/bert-base-chinese\n"
        "  yizhi export hfl/rbt3 --revision 2cb7b8f --out dist/rbt3 --target onnx --target onnx-int8",
    )
    add_conversion_options(parser, "the release folder to write", "; the manifest records it")
    add_require_mlm(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.export import export
    from yizhi.pipeline.progress import Progress
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.reports.report import write_report

    targets, pooling = find_targets(options.targets), read_pooling(options)
    int8_options = read_int8_options(options, targets)
    source = resolve_checkpoint(options.checkpoint, options.revision)
    with Progress(name=partial(name_flags, parser=options.parser)) as progress:
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
            options.dimensions,
            options.precision,
        )
    if any(row.export or row.verification for row in rows):
        write_report(options.out / "report", options.out.resolve().name, rows)
    return finish(rows, options.out, options.json, options.require_mlm)
