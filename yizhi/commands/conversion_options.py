"""The arguments of a conversion, for `yizhi export` and `yizhi convert`."""

import argparse
import os
from typing import Any

from yizhi.choices import PRECISIONS
from yizhi.commands.options import CHECKPOINT_HELP, add_ignore_file, named, positive
from yizhi.converters.targets import TARGETS, Target
from yizhi.errors import InputError
from yizhi.model.spec import POOLINGS, Pooling


def add_conversion_options(parser: argparse.ArgumentParser, out: str, recorded: str = "") -> None:
    """Declare them. out: the help of `--out`. recorded: as `add_ignore_file` takes it."""
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--out", type=named, required=True, metavar="DIR", help=out)
    parser.add_argument(
        "--target", dest="targets", action="append", metavar="T", help=f"only this target: {', '.join(TARGETS)}"
    )
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument(
        "--jobs", type=positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the weights in pytorch, flax and onnx; bf16: leave the checkpoint's bfloat16 tensors in bfloat16,"
        " and compute in float32 (docs/size.md) (default: fp32)",
    )
    parser.add_argument(
        "--keep-fp32",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAMES",
        help="int8: keep these parts in float32, such as encoder.layer.11,cls (see `yizhi int8-report`)",
    )
    parser.add_argument(
        "--calibration",
        type=named,
        metavar="FILE",
        help="int8: find outlier channels on the lines of this file (default: on everyday sentences, if the vocabulary"
        " has their words)",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="add the output sentence_embedding, a vector for each text; splade: add term_weights, a weight for each"
        " entry of the vocabulary (default: as modules.json says; docs/vectors.md)",
    )
    parser.add_argument("--normalize", action="store_true", help="with --pooling: make the vector's L2 norm 1")
    parser.add_argument(
        "--dimensions",
        type=positive,
        metavar="N",
        help="keep the first N numbers of sentence_embedding, before its norm is 1",
    )
    add_ignore_file(parser, recorded)


def read_pooling(options: argparse.Namespace) -> Pooling | None:
    """The pooling of `sentence_embedding`; None for the default. Raises InputError for a norm without a pooling."""
    if options.normalize and not options.pooling:
        raise InputError("--normalize", f"expected --pooling {', '.join(POOLINGS)} with it")
    return Pooling(options.pooling, options.normalize) if options.pooling else None


def read_int8_options(options: argparse.Namespace, targets: list[Target]) -> dict[str, Any]:
    """The arguments of the int8 converter that differ from its defaults.

    Raises InputError listing the int8 options that were given, if no target is int8.
    """
    given = {"--keep-fp32": options.keep_fp32, "--calibration": options.calibration}
    unused = [f"{flag}: is for int8; no target is int8" for flag, value in given.items() if value]
    if unused and not any(target.precision == "int8" for target in targets):
        raise InputError("--target", unused)
    return {"keep_fp32": sorted(options.keep_fp32)} if options.keep_fp32 else {}
