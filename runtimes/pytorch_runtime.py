"""PyTorch artifacts, run by the native `nn.Module`."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from yizhi.choices import MATH
from yizhi.converters.forwards.pytorch import PyTorchEncoder, can_pack, pack
from yizhi.errors import NotRun
from yizhi.model.spec import KERNEL, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import POOLER, TOKEN_HEADS, WEIGHTS
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.sentence_dense import dense_name, find_dense_weights
from yizhi.runtimes.base import TAPS, Inputs, Outputs, Runtime
from yizhi.runtimes.past import Past

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class PyTorchRuntime(Runtime):
    """Runs the whole forward pass under `torch.inference_mode`."""

    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict", "bf16", "fp16"), "cuda": MATH}

    def _open(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise NotRun("`device` cuda", "PyTorch finds no CUDA device")
        set_arithmetic(self.device, self.math)
        if self.threads:
            torch.set_num_threads(self.threads)
        folder = self.artifact.folder
        tensors = load_file(folder / WEIGHTS)
        for path in (folder / POOLER, folder / TOKEN_HEADS):
            tensors |= load_file(path) if path.exists() else {}
        for number, path in enumerate(find_dense_weights(folder)):
            tensors |= {f"{dense_name(number)}.{name}": tensor for name, tensor in load_file(path).items()}
        self._type = _TYPES.get(self.math, torch.float32)
        spec = self.build_spec(tensors.keys())
        if can_pack(self.device) and self._type == torch.float32:
            tensors = pack_kernels(spec, tensors, self.artifact.folder)
        self._module = PyTorchEncoder(spec, tensors).to(self.device, self._type).eval()

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return self._compute(inputs, outputs, None)

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """All of TAPS."""
        names = {f"layers.{layer}.{tap}": tap for tap in TAPS}
        return {names[name]: array for name, array in self._run(inputs, tuple(names)).items()}

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._compute(inputs, ("logits",), torch.from_numpy(positions).to(self.device))["logits"]

    def _step_after(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], past: Past
    ) -> Sequence[NDArray[np.float32]]:
        names = [f"layers.{number}.present.{part}" for number in range(len(past.layers)) for part in ("key", "value")]
        ids, mask = (torch.from_numpy(array).to(self.device) for array in (input_ids, attention_mask))
        arrays = [torch.from_numpy(array).to(self.device, self._type) for array in past.arrays]
        cached = tuple(zip(arrays[::2], arrays[1::2], strict=True))
        with torch.inference_mode():
            found = self._module(ids, mask, torch.zeros_like(ids), ("logits", *names), cached=cached)
        return [found[name].float().cpu().numpy() for name in ("logits", *names)]

    def _compute(self, inputs: Inputs, outputs: tuple[str, ...], positions: torch.Tensor | None) -> Outputs:
        tensors = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.as_dict().items()}
        with torch.inference_mode():
            found = self._module(**tensors, outputs=outputs, positions=positions)
        return {name: tensor.float().cpu().numpy() for name, tensor in found.items()}

    def settings(self) -> dict[str, str]:
        """TF32, the allowed attention kernels, and the type of the weights."""
        cuda = torch.backends.cuda
        found = {
            "weights": str(self._type),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cuda.matmul.allow_tf32": str(cuda.matmul.allow_tf32),
            "cudnn.allow_tf32": str(torch.backends.cudnn.allow_tf32),
        }
        if self.device == "cuda":
            kernels = ("flash", "mem_efficient", "cudnn", "math")
            allowed = [name for name in kernels if getattr(cuda, f"{name}_sdp_enabled")()]
            found |= {"attention kernels": ", ".join(allowed), "device": torch.cuda.get_device_name()}
        return found

    def find_fallbacks(self, inputs: Inputs) -> list[str]:
        """Parameters on another device: PyTorch computes where they are, or not at all."""
        return [
            f"{name}: on {parameter.device}"
            for name, parameter in self._module.named_parameters()
            if parameter.device.type != self.device
        ]


def set_arithmetic(device: str, math: str) -> None:
    """Set everything that decides how float32 is multiplied, whatever the process set before."""
    tf32 = math == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    # A 16-bit product's sum stays float32: rounding it between blocks would be a tier of its own.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if device == "cuda":
        # The fused kernels choose their products by themselves; the plain one obeys what is set above.
        for enable in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
            getattr(torch.backends.cuda, enable)(math != "strict")
        torch.backends.cuda.enable_math_sdp(True)


def pack_kernels(spec: EncoderSpec, tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The kernels packed, the rest as they are: mapped from their files, and in memory as far as they are used.

    Kernels are read beside that mapping, whose pages would count as memory beside the packed ones.
    """
    packed = {parameter.name for parameter in spec.parameters() if parameter.kind == KERNEL}
    if isinstance(spec.head, MaskedLMHead):
        packed.discard(spec.head.decoder)  # it may be the embeddings too
    scratch = np.empty(max(tensors[name].numel() for name in packed), np.float32)
    found = dict(tensors)
    for path in (folder / WEIGHTS, folder / POOLER):
        if path.exists():
            with closing(SafetensorsFile(path)) as file:
                for name in packed & file.entries.keys():
                    values = scratch[: found[name].numel()].reshape(found[name].shape)
                    np.copyto(values, file.array(name))
                    file.release(name)
                    found[name] = pack(torch.from_numpy(values))
    return found
