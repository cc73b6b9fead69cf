"""`yizhi verify`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.choices import DEVICES, MATH, WASM
from yizhi.commands.options import (
    DEVICE_HELP,
    JSON_HELP,
    Commands,
    add_command,
    add_require_mlm,
    finish,
    named,
    positive,
)
from yizhi.commands.signer_options import add_checker, open_checker
from yizhi.commands.task_options import add_data_options, read_columns
from yizhi.converters.targets import TARGETS, find_targets
from yizhi.errors import InputError
from yizhi.release.artifact import DESCRIPTION
from yizhi.release.manifest import MANIFEST, SIGNATURE
from yizhi.release.places import refuse_inside

if TYPE_CHECKING:
    from yizhi.pipeline.evaluation import Demand
    from yizhi.release.policy_verdict import PolicyVerdict
    from yizhi.release.statements import Signature


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "verify",
        run,
        "check a finished release or one artifact",
        "Check that no file was altered, then compare every artifact with the golden outputs of the release.\n"
        "If something differs, name the file or the first layer that differs. The exit code is then 1.\n\n"
        "  yizhi verify dist/bert-base-chinese\n"
        "  yizhi verify dist/bert-base-chinese/onnx-int8\n"
        "  yizhi verify dist/bert-base-chinese --bisect ./bert-base-chinese\n"
        "  yizhi verify dist/bert-base-chinese --target pytorch --device cuda --math tf32\n"
        "  yizhi verify dist/bert-base-chinese --runtime wasm\n"
        "  yizhi verify dist/bert-base-chinese --policy policy.toml --revoked withdrawn.sigstore.json",
    )
    parser.add_argument("path", type=named, metavar="RELEASE|ARTIFACT")
    parser.add_argument(
        "--target", dest="targets", action="append", metavar="T", help="only this target of the release"
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu", help=DEVICE_HELP)
    parser.add_argument(
        "--runtime",
        choices=("native", WASM),
        default="native",
        help=f"{WASM}: the ONNX artifacts as a browser computes them, by onnxruntime-web in Node (docs/web.md)",
    )
    parser.add_argument(
        "--math",
        choices=MATH,
        default="strict",
        help="precision of products (default: strict, the artifact's own type; docs/gpu.md)",
    )
    parser.add_argument(
        "--jobs", type=positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument(
        "--bisect",
        type=named,
        metavar="CHECKPOINT",
        help="the release's checkpoint: name the first tensor that differs, and the likely cause",
    )
    parser.add_argument(
        "--report", type=named, metavar="DIR", help="also write parity.json, parity.xml (JUnit) and parity.html there"
    )
    add_checker(parser)
    parser.add_argument(
        "--policy",
        type=named,
        metavar="FILE",
        help="check the release against the demands in this file (docs/policy.md)",
    )
    parser.add_argument(
        "--revoked",
        type=named,
        metavar="FILE",
        help="fail if this list of `yizhi revoke`, signed by the same signer, has the release",
    )
    parser.add_argument(
        "--eval", type=named, metavar="FILE", help="also score every artifact on labelled data (needs a label head)"
    )
    parser.add_argument(
        "--min-relative-f1",
        dest="minimum",
        type=float,
        metavar="SHARE",
        help="with --eval: fail if a score is below this share of the pytorch artifact's, such as 0.95",
    )
    add_data_options(parser, task_required=False)
    add_require_mlm(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.progress import Progress
    from yizhi.pipeline.recheck import verify_path
    from yizhi.reading.checkpoint import Checkpoint
    from yizhi.reports.report import write_report

    targets = find_targets(options.targets)
    if options.runtime == WASM and options.device != "cpu":
        raise InputError("options", f"`runtime` wasm computes on the CPU; found `device` {options.device}")
    if options.bisect:
        Checkpoint.open(options.bisect).close()  # a mistake in its path should not wait for the first failure
    demand = _read_demand(options)
    if options.report:
        refuse_inside(options.report, only_signed=True)
    policy = _judge_by_policy(options)
    signature = policy.signature if policy else _check_signature(options)
    rows = []
    if not policy or policy.may_run:
        with Progress() as progress:
            rows = verify_path(
                options.path,
                targets if options.targets else None,
                WASM if options.runtime == WASM else options.device,
                options.jobs,
                progress,
                options.bisect,
                demand,
                options.math,
            )
    if options.report:
        write_report(options.report, _name(options.path.resolve()), rows, policy)
    agree = rows and not any(row.altered for row in rows)
    vouched = _say_who_vouches(options, signature) if agree else None
    return finish(rows, options.path, options.json, options.require_mlm, policy, vouched)


def _name(path: Path) -> str:
    """A release's folder, or an artifact's with its release's."""
    return f"{path.parent.name}/{path.name}" if (path / DESCRIPTION).exists() else path.name


def _judge_by_policy(options: argparse.Namespace) -> "PolicyVerdict | None":
    """The verdict of the given policy on the release; None without a policy."""
    if options.policy is None:
        return None
    signers = ("public_key", "identity", "identity_provider", "trust_config")
    stray = [name for name in signers if getattr(options, name) is not None]
    if stray:
        raise InputError("options", [f"`{name}`: the policy says whose signature is accepted" for name in stray])
    from yizhi.release.policy import read_policy

    policy = read_policy(options.policy)
    unknown = [name for name in policy.targets if name not in TARGETS]
    if unknown:
        raise InputError(options.policy, f"targets: unknown: {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    from yizhi.release.admission import admit

    return admit(options.path, policy, options.revoked)


def _check_signature(options: argparse.Namespace) -> "Signature | None":
    """The signature of the release; None if no signer was named. Raises CheckFailed unless that signer signed."""
    checker = open_checker(options)
    if not checker:
        if options.revoked:
            raise InputError("options", "`revoked`: needs --public-key, --identity or --policy: who signed the list")
        return None
    from yizhi.release.admission import check_not_withdrawn
    from yizhi.release.signing import check_signature

    signature = check_signature(options.path, checker)
    if options.revoked:
        check_not_withdrawn(options.path, options.revoked, [checker])
    return signature


def _say_who_vouches(options: argparse.Namespace, signature: "Signature | None") -> str | None:
    """A line that says who signed the manifest; None for an artifact alone, which has no manifest."""
    if not (options.path / MANIFEST).exists():
        return None
    if signature:
        return f"files agree with the manifest; {signature.describe()}"
    if (options.path / SIGNATURE).exists():
        return "files agree with the manifest; its signature was not checked: --public-key, --identity or --policy"
    return "files agree with the manifest; the manifest is not signed: sign it (docs/signing.md)"


def _read_demand(options: argparse.Namespace) -> "Demand | None":
    from yizhi.pipeline.evaluation import Demand

    columns = read_columns(options)
    if options.eval is None:
        stray = [*columns, *(["minimum"] if options.minimum is not None else [])]
        stray += ["skip_faulty"] if options.skip_faulty else []
        if stray:
            raise InputError("options", [f"`{name}`: needs --eval" for name in stray])
        return None
    return Demand(options.eval, columns, options.skip_faulty, options.minimum)
