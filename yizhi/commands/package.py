"""`yizhi package`."""

import argparse
import json

from yizhi.commands.options import JSON_HELP, Commands, add_command, named, positive
from yizhi.commands.signer_options import add_checker, open_checker

# As in `yizhi.packaging.package.SERVERS`, which is not imported until it is needed.
_SERVERS = ("triton", "tf-serving", "web")


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "package",
        run,
        "write the folder that Triton, TensorFlow Serving or a browser expects",
        "Check every file of a release against its manifest, then write the files that a server loads: version\n"
        "folders, configuration, warm-up requests from the golden inputs, the tokenizer for clients, and\n"
        "package.json with every file's sha256. For the web: transformers.js' files, and a page (docs/web.md).\n\n"
        "  yizhi package dist/bert-base-chinese --for triton --out serve/triton\n"
        "  yizhi package dist/bert-base-chinese --for triton --target onnx-int8 --signature features --out serve/int8\n"
        "  yizhi package dist/bert-base-chinese --for tf-serving --out serve/tf\n"
        "  yizhi package dist/bert-base-chinese --for web --out serve/web",
    )
    parser.add_argument("release", type=named, metavar="RELEASE")
    parser.add_argument("--for", dest="server", choices=_SERVERS, required=True, help="the server, or web")
    parser.add_argument("--out", type=named, required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument(
        "--target",
        dest="targets",
        action="append",
        metavar="T",
        help="only this target (default: all that the server can run)",
    )
    parser.add_argument(
        "--signature",
        dest="signatures",
        action="append",
        metavar="S",
        help="Triton: write a model for this signature (default: serving_default)",
    )
    parser.add_argument("--name", help="the models' name (default: the release folder's)")
    parser.add_argument(
        "--model-version",
        dest="version",
        type=positive,
        default=1,
        metavar="N",
        help="Triton, TensorFlow Serving: the models' version (default: 1)",
    )
    parser.add_argument(
        "--npm-folder",
        type=named,
        metavar="FOLDER",
        help="web: the folder of npm's tarballs, for a machine without network (default: a cache that npm fills)",
    )
    add_checker(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.packaging.package import PACKAGE, SERVERS, package
    from yizhi.reports.tables import format_bytes

    if checker := open_checker(options):
        from yizhi.release.signing import check_signature

        check_signature(options.release, checker)
    replaces = (options.out / PACKAGE).is_file()
    found = package(
        options.release,
        options.server,
        options.out,
        options.targets,
        options.signatures,
        options.name,
        options.version,
        options.npm_folder,
    )
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    size = format_bytes(sum(entry["size"] for entry in found["files"].values()))
    print(f"{options.out}: {size}{', in place of the package that was there' if replaces else ''}")
    for model in found["models"]:
        print(f"  {model['name']}: {model['target']}, {', '.join(model['signatures'])}")
    print(SERVERS[options.server].start.format(package=options.out, name=found["models"][0]["name"]))
    return 0
