"""`yizhi convert`."""

import argparse
import json
from functools import partial

from yizhi.commands.conversion_options import add_conversion_options, read_int8_options, read_pooling
from yizhi.commands.options import JSON_HELP, Commands, add_command, explain_failure, make_console, name_flags
from yizhi.converters.targets import find_targets


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "convert",
        run,
        "write artifacts without verifying them",
        "Write a checkpoint's artifacts as `yizhi export` does, in seconds, without comparing them. There is no\n"
        "manifest.json, and no proof of what they compute. `yizhi export` into the same folder verifies them.\n\n"
        "  yizhi convert ./bert-base-chinese --out build/bert-base-chinese --target onnx",
    )
    add_conversion_options(parser, "the folder to write artifacts into")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.convert import convert
    from yizhi.pipeline.progress import Progress
    from yizhi.pipeline.results import rows_as_dict
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.reports.tables import print_conversion

    targets, pooling = find_targets(options.targets), read_pooling(options)
    int8_options = read_int8_options(options, targets)
    source = resolve_checkpoint(options.checkpoint, options.revision)
    with Progress(name=partial(name_flags, parser=options.parser)) as progress:
        rows = convert(
            source.path,
            options.out,
            targets,
            options.jobs,
            progress,
            int8_options,
            pooling,
            options.calibration,
            options.ignored_files,
            options.dimensions,
            options.precision,
        )
    if options.json:
        print(json.dumps(rows_as_dict(rows), ensure_ascii=False, indent=2))
    else:
        print_conversion(make_console(), options.out, rows)
    failed = [row for row in rows if row.size is None]
    return explain_failure(failed) if failed else 0
