"""The arguments that say how labelled data is laid out, and what it is for."""

import argparse

from yizhi.model.label_heads import ANSWER, MULTI_LABEL, REGRESSION, SEQUENCE, SINGLE_LABEL, TOKENS

TASKS = {"classify": SEQUENCE, "tag": TOKENS, "answer": ANSWER}
PROBLEMS = {"single": SINGLE_LABEL, "multi": MULTI_LABEL, "regression": REGRESSION}
_COLUMNS = ("column", "pair_column", "label_column")


def add_data_options(parser: argparse.ArgumentParser, task_required: bool) -> None:
    """Declare them. task_required: whether nothing else says what the data is for."""
    group = parser.add_argument_group("labelled data")
    if task_required:
        group.add_argument("--task", choices=tuple(TASKS), required=True, help="the task of the data")
        group.add_argument(
            "--problem",
            choices=tuple(PROBLEMS),
            help="classify: one label for each text, several, or a number (default: single)",
        )
    group.add_argument("--column", help="the field or column with the text (default: text)")
    group.add_argument("--pair-column", metavar="COLUMN", help="the field or column with the second text of a pair")
    group.add_argument("--label-column", metavar="COLUMN", help="the field or column with the label (default: label)")
    group.add_argument("--skip-faulty", action="store_true", help="skip rows that cannot be read, and list them")


def read_columns(options: argparse.Namespace) -> dict[str, str]:
    """The columns that were named."""
    return {name: getattr(options, name) for name in _COLUMNS if getattr(options, name) is not None}
