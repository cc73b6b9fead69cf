"""Settings: the hyper-parameters that all kinds of training share."""

from dataclasses import asdict, dataclass
from typing import Any

from yizhi.errors import InputError
from yizhi.training.choices import PRECISIONS


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of one training run.

    batch_size: rows in a forward pass; accumulation: forward passes in an optimizer's step.
    warmup: the share of all steps in which the learning rate rises; it falls linearly to zero in the rest.
    weight_decay: AdamW's, on all but biases and LayerNorms. max_steps: if given, replaces whole epochs.
    evaluate_every: steps between evaluations, which also save the state; an epoch if None.
    patience: stop after this many evaluations without a better score; None never stops.
    precision: fp32 or bf16 (autocast: weights stay float32). device: cpu, cuda, or None for cuda if there is one.
    """

    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    precision: str = "fp32"
    evaluate_every: int | None = None
    patience: int | None = None
    seed: int = 0
    threads: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError, listing every fault, for values out of range."""
        faults = [
            f"{name}: expected 1 or more; found {getattr(self, name)}"
            for name in ("epochs", "max_steps", "batch_size", "accumulation", "evaluate_every", "patience", "threads")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        if not self.learning_rate > 0:
            faults.append(f"learning_rate: expected more than 0; found {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            faults.append(f"warmup: expected 0 or more, less than 1; found {self.warmup}")
        if not self.weight_decay >= 0:
            faults.append(f"weight_decay: expected 0 or more; found {self.weight_decay}")
        if self.precision not in PRECISIONS:
            faults.append(f"precision: expected {' or '.join(PRECISIONS)}; found {self.precision!r}")
        if not 0 <= self.seed < 1 << 32:
            faults.append(f"seed: expected 0 … {(1 << 32) - 1}; found {self.seed}")
        if faults:
            raise InputError("training settings", faults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
