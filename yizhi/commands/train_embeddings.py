"""`yizhi train-embeddings`."""

import argparse
import json
from pathlib import Path

from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.training_options import (
    add_run_options,
    add_training_options,
    read_settings,
    tell_next,
    use_torch_alone,
)
from yizhi.training.choices import EMBEDDING_POOLINGS, OBJECTIVES


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "train-embeddings",
        run,
        "train an encoder whose vectors measure how similar sentences are",
        "Train a checkpoint's sentence embeddings on scored pairs or on plain text, and write a checkpoint without\n"
        "a head, which `yizhi export` takes. The same command continues an interrupted run.\n\n"
        "  yizhi train-embeddings ./rbt3 --train pairs.csv --eval dev.csv --out build/vectors\n"
        "  yizhi train-embeddings ./rbt3 --objective simcse --train sentences.txt --eval dev.csv --out build/vectors",
    )
    add_run_options(parser, "scored pairs, or plain text,", "scored pairs")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="cosent",
        help="cosent learns from scored pairs (default), simcse from plain text",
    )
    parser.add_argument(
        "--pooling",
        choices=EMBEDDING_POOLINGS,
        default="mean",
        help="pooling of a text's hidden states (default: mean)",
    )
    data = parser.add_argument_group("fields or columns of the data")
    data.add_argument("--column", metavar="COLUMN", help="the text, or the first text of a pair (default: sentence1)")
    data.add_argument("--pair-column", metavar="COLUMN", help="the second text of a pair (default: sentence2)")
    data.add_argument("--label-column", metavar="COLUMN", help="a pair's score (default: label)")
    parser.add_argument(
        "--freeze-layers", type=positive, metavar="N", help="do not train the embeddings and the bottom N layers"
    )
    add_training_options(parser, epochs=3, learning_rate=5e-5)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.training.requirements import require

    require("torch", "transformers", "accelerate", "matplotlib")
    use_torch_alone()
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.training.embed import Columns, Embedding, train_embedding

    named = {"first": options.column, "second": options.pair_column, "score": options.label_column}
    outcome = train_embedding(
        Path(resolve_checkpoint(options.checkpoint, options.revision).path),
        options.train,
        options.eval,
        options.out,
        read_settings(options),
        Embedding(options.objective, options.pooling),
        Columns(**{name: column for name, column in named.items() if column}),
        freeze_layers=options.freeze_layers or 0,
        max_length=options.max_length,
    )
    if options.json:
        print(json.dumps(outcome.as_dict(), ensure_ascii=False, indent=2))
        return 0
    print(f"{outcome.examples:,} examples, {outcome.history.steps} steps, {outcome.seconds:.0f} s")
    for name, value in outcome.scores.items():
        print(f"{name} {outcome.before[name]:.4f} → {value:.4f}")
    # Compared by their inner products, as an index does, vectors need the norm 1 that cosines have here.
    tell_next(options.out, "--pooling", options.pooling, "--normalize")
    return 0
