"""`yizhi embed`."""

import argparse

from yizhi.choices import TEXT_POOLINGS, VECTOR_KINDS
from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.text_options import add_text_options, make_operator, read_text, run_bulk
from yizhi.errors import InputError


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "embed",
        run,
        "turn a sentence, or every line of a file, into a vector",
        "Give each text's vector. By default the artifact's own pooling makes it, else the mean of the tokens' last\n"
        "hidden states. An artifact that was exported with --pooling splade gives sparse weights.\n\n"
        '  yizhi embed dist/bert-base-chinese/onnx-int8 "北京是中国的首都。"\n'
        "  yizhi embed dist/bert-base-chinese/onnx-int8 sentences.txt --output vectors.npy --normalize\n"
        "  yizhi embed dist/bge-m3/onnx-int8 sentences.txt --kind dense sparse --output vectors.jsonl",
    )
    add_text_options(parser, "a sentence", formats=".jsonl, .parquet, .npy or .safetensors")
    parser.add_argument(
        "--layer",
        dest="layers",
        type=int,
        nargs="+",
        metavar="N",
        help="hidden states to average: 0 the embeddings, 1 … the layers, -1 the last (default: -1)",
    )
    parser.add_argument(
        "--pooling",
        choices=TEXT_POOLINGS,
        help="one vector of the text's own tokens; none: a vector of each token (default: as exported, else mean)",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="make each vector's L2 norm 1 (default: as exported with this pooling, else no)",
    )
    parser.add_argument("--dimensions", type=positive, metavar="N", help="keep the first N numbers, before the norm")
    parser.add_argument(
        "--kind",
        dest="kinds",
        nargs="+",
        choices=VECTOR_KINDS,
        help="outputs of the artifact's graph: the exported vector, weights of tokens, a vector of each token",
    )
    parser.add_argument(
        "--prompt",
        metavar="NAME|TEXT",
        help="put this before each text: the name of a prompt of the artifact, or any text",
    )
    parser.add_argument("--truncate", action="store_true", help="cut a text that is too long for the model")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    shared = {"prompt": options.prompt, "long": "truncate" if options.truncate else "error"}
    given = {name: getattr(options, name) for name in ("layers", "pooling", "normalize", "dimensions")}
    kinds = options.kinds or _default_kinds(options)
    if kinds is None:
        operator = make_operator(options, "embed", **{**given, "layers": options.layers or [-1]}, **shared)
    else:
        asked = [name for name in given if given[name] is not None]
        if asked:
            raise InputError(", ".join(f"`{name}`" for name in asked), _why_not(options))
        operator = make_operator(options, "vectors", kinds=kinds, **shared)
    if options.output:
        return run_bulk(options, operator)
    from yizhi.bulk.writers import to_json_line

    text = read_text(options)
    with operator.open() as embed:
        row = operator.make_row(embed([text])[0])
    print(to_json_line(row if options.json or kinds else row["embedding"]))
    return 0


def _default_kinds(options: argparse.Namespace) -> list[str] | None:
    """`sparse` for an artifact of SPLADE without `--pooling`; None for one dense vector."""
    from yizhi.model.spec import SPLADE
    from yizhi.release.artifact import DESCRIPTION, Artifact

    if options.pooling is not None or not (options.artifact / DESCRIPTION).exists():  # opening it reports the fault
        return None
    own = Artifact.read(options.artifact).description.get("pooling") or {}
    return ["sparse"] if own.get("mode") == SPLADE else None


def _why_not(options: argparse.Namespace) -> str:
    """The fault of each setting of one dense vector."""
    if options.kinds is None:
        return "is for vectors: the artifact gives sparse weights (SPLADE), unless `pooling` chooses a vector"
    return "does not go with `kinds`, which gives vectors as they were exported: leave out one of the two"
