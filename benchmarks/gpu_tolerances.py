"""What TF32, bfloat16 and float16 may cost, simulated on a CPU: where their tolerances come from (docs/gpu.md).

    python -m benchmarks.gpu_tolerances [CHECKPOINT ...]        five synthetic models, and these: 5 minutes on 2 cores

The cases of the parity suite run through PyTorch's forward pass in float64, where every number that a tier would round
is rounded. Beside them, as a check of the simulation, PyTorch's and JAX's own 16-bit arithmetic on the CPU. `needs` is
the smallest t with |error| ≤ t + t · scale in every output. Writes docs/gpu/simulated.json.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.families import IN_LITTLE, shapes
from benchmarks.gpu_report import MEASURED, SIMULATED, Need, render_needs
from tests.artifacts import export_artifact
from yizhi.converters.forwards.pytorch import PyTorchEncoder
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.weight_faults import round_mantissa
from yizhi.pipeline.synthesis import DEFAULT_CONFIG, synthesize
from yizhi.reading.checkpoint import POOLER, WEIGHTS, Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import Inputs, Outputs, Runtime, open_runtime
from yizhi.runtimes.pytorch_runtime import PyTorchRuntime
from yizhi.storage.codec import to_plain
from yizhi.storage.json_files import to_json

# Too long for a simulation, and a token shorter is another case.
LEFT_OUT = "longest"
FEW_TOKENS = {"vocab_size": 2000}  # logits are rounded alike, however many there are


@dataclass(frozen=True)
class Arithmetic:
    """round: to what a tier keeps of a float32. everything: every result is rounded, not only what is multiplied.

    lowest: what stands for minus infinity in the attention mask.
    """

    tier: str
    round: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    everything: bool = False
    lowest: float = float("-inf")


def to_tf32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 10 explicit bits, halves to even."""
    return round_mantissa(x, 10)


def to_tf32_cut_off(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 10 explicit bits, towards zero: what a matrix unit sees of a float32 that nothing has rounded."""
    return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To bfloat16: 7 explicit bits, halves to even."""
    return round_mantissa(x, 7)


def to_fp16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To float16 and its range: infinite from 65,520 on, and steps of 6e-8 near 0."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


SIMULATIONS: Mapping[str, Arithmetic] = {
    "tf32, rounded": Arithmetic("tf32", to_tf32),
    "tf32, cut off": Arithmetic("tf32", to_tf32_cut_off),
    "bf16": Arithmetic("bf16", to_bf16, True, torch.finfo(torch.bfloat16).min),
    "fp16": Arithmetic("fp16", to_fp16, True, torch.finfo(torch.float16).min),
}
# What checks them: (target, tier) on the CPU.
NATIVE: Mapping[str, tuple[str, str]] = {
    "bf16, PyTorch's own": ("pytorch", "bf16"),
    "fp16, PyTorch's own": ("pytorch", "fp16"),
    "bf16, JAX's own": ("flax", "bf16"),
    "fp16, JAX's own": ("flax", "fp16"),
}


class Rounding(TorchFunctionMode):
    """Rounds what PyTorch computes in float64 as an arithmetic would; fused products are taken apart.

    GELU, softmax and LayerNorm are rounded once, at their end: frameworks compute them in float32.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self._arithmetic = arithmetic
        self._apart: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
            F.linear: lambda x, weight, bias: torch.matmul(x, weight.t()) + bias,
            F.scaled_dot_product_attention: self._attention,
        }

    def round(self, x: Tensor) -> Tensor:
        """As float64 again."""
        return torch.from_numpy(self._arithmetic.round(x.float().numpy())).to(x.dtype)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute one operation of the forward pass; its parts come back here, once more each."""
        if func in self._apart:
            with self:
                return self._apart[func](*args, **kwargs or {})
        if func is torch.matmul and not self._arithmetic.everything:
            args = tuple(self.round(x) for x in args)
        found = func(*args, **kwargs or {})
        rounds = self._arithmetic.everything and isinstance(found, Tensor) and found.is_floating_point()
        return self.round(found) if rounds else found

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, scale: float) -> Tensor:
        scores = torch.matmul(query, key.transpose(-1, -2)) * scale + attn_mask.clamp(min=self._arithmetic.lowest)
        return torch.matmul(torch.softmax(scores, -1), value)


class SimulatedRuntime(PyTorchRuntime):
    """A PyTorch artifact computed in float64, rounded as an arithmetic rounds."""

    def __init__(self, artifact: Artifact, arithmetic: Arithmetic) -> None:
        super().__init__(artifact)
        self._arithmetic = arithmetic
        self._open()

    def _open(self) -> None:
        files = [path for name in (WEIGHTS, POOLER) if (path := self.artifact.folder / name).exists()]
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
        self._type, self._rounding = torch.float64, Rounding(self._arithmetic)
        if self._arithmetic.everything:
            tensors = {name: self._rounding.round(tensor) for name, tensor in tensors.items()}
        self._module = PyTorchEncoder(self.build_spec(tensors.keys()), tensors).to(torch.float64).eval()

    def _compute(self, inputs: Inputs, outputs: tuple[str, ...], positions: Tensor | None) -> Outputs:
        with self._rounding:
            return super()._compute(inputs, outputs, positions)


def find_need(model: str, name: str, tier: str, runtime: Runtime, golden: Golden) -> Need:
    """Run the cases. `verify` finds the smallest tolerance where it knows none for a precision, as for this one."""
    worst = max(verify(runtime, golden, "simulated").worst().values(), key=lambda difference: difference.rank)
    return Need(model, name, tier, None if worst.fault else worst.excess, worst.output)


def simulate(folder: Path) -> Iterator[Need]:
    """One checkpoint in every arithmetic."""
    with Checkpoint.open(folder) as checkpoint, tempfile.TemporaryDirectory() as temporary:
        every = Golden.make(checkpoint)
        cases = [
            replace(case, alone=(), signatures=("hidden_states",)) for case in every.cases if case.name != LEFT_OUT
        ]
        golden = replace(every, cases=cases)
        artifacts = {name: export_artifact(checkpoint, name, Path(temporary) / name) for name in ("pytorch", "flax")}
        for name, arithmetic in SIMULATIONS.items():
            with SimulatedRuntime(Artifact.read(artifacts["pytorch"]), arithmetic) as runtime:
                yield find_need(folder.name, name, arithmetic.tier, runtime, golden)
        for name, (target, tier) in NATIVE.items():
            with open_runtime(artifacts[target], math=tier) as runtime:
                yield find_need(folder.name, name, tier, runtime, golden)


def make_models(folder: Path) -> list[Path]:
    """Synthetic checkpoints with outlier channels: the default, a deep one, and three other families."""
    published = shapes()
    deep = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "num_hidden_layers": 24}
    configs = {
        "bert-base": DEFAULT_CONFIG,
        "bert-24x256": {**DEFAULT_CONFIG, **deep},
        "albert-tiny": published["albert_chinese_tiny"],
        "electra-small": published["chinese-electra-small-discriminator"],
        "megatron-8x512": IN_LITTLE["megatron-bert, 8 × 512"],
    }
    for name, config in configs.items():
        synthesize(folder / name, {**config, **FEW_TOKENS})
    return [folder / name for name in configs]


def main(arguments: list[str] | None = None) -> int:
    """Simulate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", type=Path, nargs="*", help="trained ones, besides")
    options = parser.parse_args(arguments)
    needs = []
    with tempfile.TemporaryDirectory() as temporary:
        for folder in [*make_models(Path(temporary)), *options.checkpoints]:
            for need in simulate(folder):
                print(need, file=sys.stderr, flush=True)
                needs.append(need)
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / SIMULATED).write_text(to_json(to_plain(needs)), encoding="utf-8")
    print(render_needs(needs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
