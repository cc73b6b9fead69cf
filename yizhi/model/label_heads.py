"""Heads that give labels: sequence and token classification, and extractive question answering.

Which one a checkpoint has follows from `architectures` in its `config.json`, for `classifier.weight`
alone may be either kind; its labels follow from `id2label` or `num_labels`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yizhi.errors import InputError, show
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import Dense, EncoderSpec, Linear, LinearHead, Norm

SEQUENCE, TOKENS, ANSWER = "text-classification", "token-classification", "question-answering"

# What transformers' class for each of these tasks ends with.
LABEL_CLASS_SUFFIXES: Mapping[str, str] = {
    SEQUENCE: "ForSequenceClassification",
    TOKENS: "ForTokenClassification",
    ANSWER: "ForQuestionAnswering",
}
REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"
PROBLEM_TYPES = (REGRESSION, SINGLE_LABEL, MULTI_LABEL)
_MOST_LABELS = 1 << 20


@dataclass(frozen=True)
class LabelHeadNames:
    """What a label head reads (see LinearHead.over), and the names of its parts.

    over: of a sequence's head, where the configuration does not say it (ModernBERT's does).
    activation: of `dense`, whatever `hidden_act` says; None follows the configuration. norm: of what it gives.
    """

    over: str
    projection: str
    dense: str | None = None
    norm: str | None = None
    activation: str | None = None


# As transformers' Bert, MegatronBert and Albert classes have them.
LABEL_HEADS: Mapping[str, LabelHeadNames] = {
    SEQUENCE: LabelHeadNames(over="pooler", projection="classifier"),
    TOKENS: LabelHeadNames(over="tokens", projection="classifier"),
    ANSWER: LabelHeadNames(over="tokens", projection="qa_outputs"),
}


def task_of(architecture: str | None) -> str | None:
    """The task of a class name such as BertForTokenClassification; None where it gives no labels."""
    return next((task for task, end in LABEL_CLASS_SUFFIXES.items() if (architecture or "").endswith(end)), None)


def label_head(names: LabelHeadNames, task: str, config: EncoderConfig) -> LinearHead:
    """The head of this task, with the labels of the configuration. Raises InputError listing what is wrong there."""
    faults: list[str] = []
    labels = read_labels(config.raw, faults)
    if task == ANSWER:
        if not faults and len(labels) != 2:
            faults.append(f"id2label: expected 2, the start and the end of an answer; found {len(labels)}")
        labels = ("start", "end")
    problem_type = _read_problem_type(config.raw, len(labels), faults)
    if faults:
        raise InputError("config.json", faults)
    hidden, reads = config.hidden_size, config.layers.classifier_reads if task == SEQUENCE else None
    return LinearHead(
        over=reads or names.over,
        dense=_dense(names, config),
        projection=Linear(names.projection, hidden, len(labels)),
        labels=labels,
        problem_type=problem_type if task == SEQUENCE else None,
    )


def _dense(names: LabelHeadNames, config: EncoderConfig) -> Dense | None:
    hidden, layers = config.hidden_size, config.layers
    if names.dense is None:
        return None
    return Dense(
        Linear(names.dense, hidden, hidden, layers.classifier_bias),
        names.activation or config.head_activation,
        Norm(names.norm, hidden, config.layer_norm_eps, layers.norm_bias) if names.norm else None,
    )


def describe_labels(spec: EncoderSpec) -> dict[str, Any]:
    """`labels`, the names of the logits, and `problem_type`, where the head has them; else nothing."""
    head = spec.head
    if not isinstance(head, LinearHead) or not head.labels:
        return {}
    kind = {"problem_type": head.problem_type} if head.problem_type else {}
    return {"labels": list(head.labels), **kind}


def read_labels(raw: Mapping[str, Any], faults: list[str]) -> tuple[str, ...]:
    """The labels in the order of their ids; LABEL_0, … where only their number is given (2, if not even that)."""
    count, names = raw.get("num_labels"), raw.get("id2label")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MOST_LABELS):
        faults.append(f"num_labels: expected an integer from 1 to {_MOST_LABELS}; found {show(count)}")
        return ()
    of_ids = raw.get("label2id")
    if names is None and count is None and isinstance(of_ids, dict) and len(of_ids) > 2:
        # transformers overlooks label2id and expects two labels, which cannot be.
        names = {str(number): label for label, number in of_ids.items()}
        if len(names) != len(of_ids):
            faults.append(f"label2id: two labels have one id: {show(of_ids)}")
            return ()
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(2 if count is None else count))
    if not isinstance(names, dict) or not names or not all(_is_label(name) for name in names.values()):
        faults.append(f"id2label: expected an object of id to label; found {show(names)}")
        return ()
    missing = [str(number) for number in range(len(names)) if str(number) not in names]
    if missing:
        extra = next(key for key in names if not key.isdecimal() or str(int(key)) != key or int(key) >= len(names))
        faults.append(
            f"id2label: expected the ids 0 … {len(names) - 1}; {missing[0]} is missing, {show(extra)} is there"
        )
        return ()
    if count is not None and count != len(names):
        faults.append(f"num_labels: found {count}, but id2label names {len(names)}")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def _is_label(name: object) -> bool:
    """Labels may be written as numbers."""
    return isinstance(name, str | int) and not isinstance(name, bool)


def _read_problem_type(raw: Mapping[str, Any], labels: int, faults: list[str]) -> str:
    """As given; else what transformers' classes take it for: one label is a number, several exclude each other."""
    given = raw.get("problem_type")
    if given is None:
        return REGRESSION if labels == 1 else SINGLE_LABEL
    if given not in PROBLEM_TYPES:
        faults.append(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}; found {show(given)}")
    return str(given)
