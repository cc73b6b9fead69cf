"""`yizhi int8-report`."""

import argparse
import json
from typing import Any

from yizhi.commands.options import JSON_HELP, Commands, add_command, make_console, named, positive


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "int8-report",
        run,
        "what int8 costs on your own sentences, and which part costs most",
        "Mask every seventh token of your sentences and compare a release's onnx-int8 artifact with its\n"
        "onnx one: agreement, KL, cosine per layer. Without a head that fills masks, every token as it is.\n"
        "With the checkpoint, also what outlier channels gain, and what each layer costs: int8 is exported\n"
        "again with that layer kept in float32, for `yizhi export --keep-fp32`.\n\n"
        "  yizhi int8-report dist/bert-base-chinese --text sentences.txt\n"
        "  yizhi int8-report dist/bert-base-chinese --text sentences.txt --costs ./bert-base-chinese",
    )
    parser.add_argument("release", type=named, metavar="RELEASE")
    parser.add_argument(
        "--text", dest="texts", type=named, required=True, metavar="FILE", help="a sentence per line, UTF-8"
    )
    parser.add_argument("--costs", type=named, metavar="CHECKPOINT", help="also measure what each part costs")
    parser.add_argument(
        "--positions", type=positive, default=2000, help="tokens to compare (default: 2000; a quarter for costs)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.int8_report import report
    from yizhi.runtimes.processor import describe_int8_kernels
    from yizhi.storage.texts import read_texts

    found = report(options.release, read_texts(options.texts), options.positions, options.costs)
    found["kernels"] = describe_int8_kernels()
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    console, quality, outliers = make_console(), found["quality"], found["outliers"]
    masked = "masked " if quality else ""
    lines = [f"{found['tokens']} {masked}tokens of {found['texts']} texts, against fp32"]
    if quality:
        lines += [
            f"top-1 {quality['top1']:.1%}, top-5 {quality['top5']:.1%}",
            f"KL mean {quality['kl_mean']:.1e}, p99 {quality['kl_p99']:.1e}, max {quality['kl_max']:.1e}",
        ]
    lines += [
        f"integer products: {found['kernels']}",
        f"outlier channels: {sum(map(len, outliers.values()))}, in {len(outliers)} kernels",
        "cosine, lowest and mean:",
        *(f"  {name:18} {low:.5f}  {found['cosine_mean'][name]:.6f}" for name, low in found["cosine"].items()),
    ]
    if "outliers_gain" in found:
        lines += ["mean cosine without outlier channels, and with them:"]
        lines += [f"  {name:18} {one:.6f}  {other:.6f}" for name, (one, other) in found["outliers_gain"].items()]
    if "costs" in found:
        what = "KL mean" if quality else "1 − mean cosine"
        lines += [f"{what} with one part kept in fp32 (nothing kept: {found['costs_without']:.2e}):"]
        lines += [f"  {value:.2e}  {name}" for name, value in found["costs"].items()]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
