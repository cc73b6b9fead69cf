"""Bottleneck adapters as roles: what the `adapters` library computes, as data that every forward pass reads."""

from yizhi.model.adapter_config import CHANNEL, LEARNED, POST_ADD, AdapterConfig
from yizhi.model.spec import INPUT, NORMED, OUTPUT, SUM, Adapter, Linear, Norm, Scaling

# torch.nn.LayerNorm's default, which the library's own norms have, whatever the encoder's is.
_EPSILON = 1e-5


def bottleneck(
    config: AdapterConfig, place: str, hidden_size: int, layer: int, takes_input_for_output: bool = False
) -> Adapter:
    """The adapter after a sub-layer whose own are under `place`, in the layer of this number.

    takes_input_for_output: the sub-layer hands its input and its output over in each other's place.
    """
    name, width = f"{place}.{config.name}", config.bottleneck_size(hidden_size, layer)
    entry, result = (OUTPUT, INPUT) if takes_input_for_output else (INPUT, OUTPUT)
    if config.is_parallel:
        reads, residual = entry, result
    else:
        reads = NORMED if config.original_ln_before else result
        before_norm = {True: result, False: reads, POST_ADD: SUM}
        residual = before_norm[config.residual_before_ln]
    return Adapter(
        reads=reads,
        norm_before=Norm(f"{name}.adapter_norm_before", hidden_size, _EPSILON) if config.ln_before else None,
        down=Linear(f"{name}.adapter_down.{int(config.ln_before)}", hidden_size, width),
        activation=config.activation,
        up=Linear(f"{name}.adapter_up", width, hidden_size),
        scaling=_scaling(config, name, hidden_size),
        residual=residual,
        residual_in_norm=config.adapter_residual_before_ln and not config.is_parallel,
        norm_after=Norm(f"{name}.adapter_norm_after", hidden_size, _EPSILON) if config.ln_after else None,
        adds=entry if config.original_ln_after else None,
    )


def _scaling(config: AdapterConfig, name: str, hidden_size: int) -> Scaling | float:
    if isinstance(config.scaling, float):
        return config.scaling
    return Scaling(f"{name}.scaling", {LEARNED: 1, CHANNEL: hidden_size}[config.scaling])
