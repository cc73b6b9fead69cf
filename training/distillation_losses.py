"""What a student learns from its teacher: logits, hidden states, relations between tokens; and the labels themselves.

The student's layers are as wide as the teacher's, so nothing has to be projected to be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, log_softmax, mse_loss

from yizhi.model.label_heads import MULTI_LABEL, REGRESSION
from yizhi.model.spec import EncoderSpec
from yizhi.training.distillation_weights import Weights
from yizhi.training.features import IGNORED
from yizhi.training.unlabelled import answer


def logits_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, problem_type: str | None = None
) -> torch.Tensor:
    """τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)), the mean over rows.

    student, teacher: [N, labels]. Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2. Of several labels
    a text, each is a sigmoid: τ² times their cross-entropy. Of a number, the squared difference.
    """
    if problem_type == REGRESSION:
        return mse_loss(student, teacher)
    if problem_type == MULTI_LABEL:
        return temperature**2 * binary_cross_entropy_with_logits(
            student / temperature, torch.sigmoid(teacher / temperature)
        )
    found, expected = (log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * kl_div(found, expected, reduction="batchmean", log_target=True)


def hidden_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """The mean squared difference of hidden states, over a row's own tokens and the student's layers.

    student, teacher: [B, T, H] each, the embeddings' first: M + 1 and L + 1 of them. Layer m learns from layer m L / M,
    rounded up. attention_mask: [B, T]. Source: TinyBERT, arXiv:1909.10351, equations 8 and 9, without a projection.
    """
    own, last_own, last = attention_mask.bool(), len(student) - 1, len(teacher) - 1
    pairs = ((student[m], teacher[-(-m * last // last_own)]) for m in range(last_own + 1))
    return torch.stack([mse_loss(mine[own].float(), its[own].float()) for mine, its in pairs]).mean()


def relation_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], heads: int, attention_mask: torch.Tensor
) -> torch.Tensor:
    """The mean of KL(softmax(A Aᵀ / √d) of the teacher ‖ that of the student), for A queries, keys and values.

    student, teacher: [B, T, H] each, of the last layer; heads: into how many A is cut, of d = H / heads.
    attention_mask: [B, T]; padding is no part of it. Source: MiniLMv2, arXiv:2012.15828, equations 5 to 7.
    """
    own = attention_mask.bool()
    losses = []
    for mine, its in zip(student, teacher, strict=True):
        found, expected = (_relations(part.float(), heads, own) for part in (mine, its))
        each = (expected.exp() * (expected - found)).masked_fill(~own[:, None, None, :], 0).sum(-1)  # [B, heads, T]
        losses.append(each.transpose(1, 2)[own].mean())
    return torch.stack(losses).mean()


def _relations(x: torch.Tensor, heads: int, own: torch.Tensor) -> torch.Tensor:
    """log softmax over a row's own tokens: [B, heads, T, T]."""
    cut = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, T, d]
    scores = cut @ cut.transpose(-1, -2) / cut.shape[-1] ** 0.5
    return log_softmax(scores.masked_fill(~own[:, None, None, :], torch.finfo(scores.dtype).min), dim=-1)


class _Projections:
    """Queries, keys and values of a model's last layer, [B, T, H] each, as its latest pass made them."""

    def __init__(self, model: torch.nn.Module, spec: EncoderSpec) -> None:
        layer = spec.blocks[-1][-1]
        self._names = (layer.query.name, layer.key.name, layer.value.name)
        self._fused = layer.fused
        self._found: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys(self._names):
            model.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._found[name] = output

        return keep

    def take(self) -> tuple[torch.Tensor, ...]:
        """The three; each pass gives them once."""
        found, self._found = self._found, {}
        return found[self._names[0]].chunk(3, dim=-1) if self._fused else tuple(found[name] for name in self._names)


class Distiller:
    """The loss of a student, as `yizhi.training.loop.train` takes it.

    Both models are transformers' classes for one task, on one device; the teacher is put into evaluation mode.
    problem_type: of a sequence's labels.
    """

    def __init__(
        self,
        teacher: torch.nn.Module,
        teacher_spec: EncoderSpec,
        student: torch.nn.Module,
        student_spec: EncoderSpec,
        weights: Weights,
        problem_type: str | None = None,
    ) -> None:
        self._teacher = teacher.eval()
        self._weights, self._problem_type = weights, problem_type
        self._heads = teacher_spec.config.num_attention_heads
        self._projections = (
            [_Projections(student, student_spec), _Projections(teacher, teacher_spec)] if weights.relations else []
        )

    def __call__(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum for one batch, with `labels` among its inputs. The teacher gives labels that are missing."""
        weights, mask = self._weights, inputs["attention_mask"]
        given = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        with torch.no_grad():
            expected = self._teacher(**given, output_hidden_states=bool(weights.hidden))
        labels = answer(inputs["labels"], expected.logits, self._problem_type)
        found = model(**given, labels=labels, output_hidden_states=bool(weights.hidden))
        total = weights.labels * found.loss
        if weights.logits:
            logits = found.logits.float(), expected.logits.float()
            if logits[0].ndim == 3:  # of tokens: those that have a label
                logits = tuple(each[labels != IGNORED] for each in logits)
            total = total + weights.logits * logits_loss(*logits, weights.temperature, self._problem_type)
        if weights.hidden:
            total = total + weights.hidden * hidden_loss(found.hidden_states, expected.hidden_states, mask)
        if weights.relations:
            mine, its = (projections.take() for projections in self._projections)
            total = total + weights.relations * relation_loss(mine, its, self._heads, mask)
        return total
