"""PyTorch artifacts, run by the native `nn.Module`."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from converters.checkpoint import POOLER, WEIGHTS
from converters.errors import InputError
from converters.forwards.pytorch import Encoder, can_pack, pack
from converters.safetensors_file import SafetensorsFile
from converters.spec import KERNEL, EncoderSpec, MaskedLMHead
from runtimes.base import TAPS, Inputs, Outputs, Runtime


class PyTorchRuntime(Runtime):
    """Runs the whole forward pass under `torch.inference_mode`, in strict float32."""

    def _open(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda", "this PyTorch sees no CUDA device")
        # TF32 rounds inputs to 10 bits of mantissa: never in strict mode.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        if self.threads:
            torch.set_num_threads(self.threads)
        tensors = load_file(self.artifact.folder / WEIGHTS)
        if (self.artifact.folder / POOLER).exists():
            tensors |= load_file(self.artifact.folder / POOLER)
        spec = self._build_spec(tensors.keys())
        if can_pack(self.device):
            tensors = pack_kernels(spec, tensors, self.artifact.folder)
        self._module = Encoder(spec, tensors).to(self.device).eval()

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return self._compute(inputs, outputs, None)

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """All of TAPS."""
        names = {f"layers.{layer}.{tap}": tap for tap in TAPS}
        return {names[name]: array for name, array in self._run(inputs, tuple(names)).items()}

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._compute(inputs, ("logits",), torch.from_numpy(positions).to(self.device))["logits"]

    def _compute(self, inputs: Inputs, outputs: tuple[str, ...], positions: torch.Tensor | None) -> Outputs:
        tensors = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.as_dict().items()}
        with torch.inference_mode():
            found = self._module(**tensors, outputs=outputs, positions=positions)
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}


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
