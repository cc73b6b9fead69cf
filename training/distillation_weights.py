"""How much each of distillation's losses counts. Without torch, so that the command line can tell the defaults."""

from dataclasses import asdict, dataclass

from yizhi.errors import InputError

_TERMS = ("labels", "logits", "hidden", "relations")


@dataclass(frozen=True)
class Weights:
    """How much each loss counts; 0 leaves it out. temperature: what logits are divided by."""

    labels: float = 1.0
    logits: float = 1.0
    hidden: float = 1.0
    relations: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Raise InputError, listing every fault, for values that mean nothing."""
        faults = [
            f"`{name}`: expected 0 or more; found {getattr(self, name)}"
            for name in _TERMS
            if not 0 <= getattr(self, name) < float("inf")
        ]
        if not 0 < self.temperature < float("inf"):
            faults.append(f"`temperature`: expected more than 0; found {self.temperature}")
        if not faults and not any(getattr(self, name) for name in _TERMS[1:]):
            faults.append("`logits`, `hidden`, `relations`: expected one above 0: else there is nothing to distil")
        if faults:
            raise InputError("losses", faults)

    def as_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)
