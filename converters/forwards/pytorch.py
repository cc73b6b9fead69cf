"""PyTorch: the encoder as an `nn.Module`.

Parameters keep their canonical names, so `state_dict()` and the checkpoint agree key by key.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yizhi.model.spec import (
    INPUT,
    OUTPUT,
    SENTENCE_EMBEDDING,
    SHORTEST_NORM,
    SUM,
    Adapter,
    EncoderSpec,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Pooling,
    Scaling,
)

Parameters = Mapping[str, Tensor]
Tap = Callable[[str, Tensor], Tensor]


def gelu_erf(x: Tensor) -> Tensor:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="none")


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = {"gelu_erf": gelu_erf, "gelu_tanh": gelu_tanh, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class PyTorchEncoder(nn.Module):
    """An encoder with its head, holding each parameter under its canonical name."""

    def __init__(self, spec: EncoderSpec, tensors: Parameters) -> None:
        super().__init__()
        self.spec = spec
        for parameter in spec.parameters():
            _register(self, parameter.name, tensors[parameter.name])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        outputs: Collection[str],
        positions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The named outputs, from integer tensors [B, T].

        positions: (row, position) pairs [N, 2]; then the last layer and a masked-language-model head compute
        these tokens alone, and `logits` are [N, V].
        """
        found: dict[str, Tensor] = {}

        def tap(name: str, x: Tensor) -> Tensor:
            if name in outputs:
                found[name] = x
            return x

        spec, p = self.spec, dict(self.named_parameters())
        x = embeddings(p, spec, input_ids, token_type_ids)  # [B, T, H]
        mask = (1 - attention_mask)[:, None, None, :].to(x.dtype) * torch.finfo(x.dtype).min  # [B, 1, 1, T]
        x = encoder(p, spec, x, mask, tap, positions)
        tap("last_hidden_state", x)
        reads_pooler = "pooler_output" in outputs or ("logits" in outputs and spec.head_reads_pooler)
        pooled = tap("pooler_output", pooler(p, spec.pooler, x)) if spec.pooler and reads_pooler else None
        if SENTENCE_EMBEDDING in outputs and spec.pooling:
            tap(SENTENCE_EMBEDDING, sentence_embedding(spec.pooling, x, attention_mask))
        if "logits" in outputs and isinstance(spec.head, MaskedLMHead):
            tap("logits", mlm_head(p, spec, spec.head, x))
        elif "logits" in outputs and spec.head is not None:
            tap("logits", linear_head(p, spec.head, x, pooled))
        return found


def embeddings(p: Parameters, spec: EncoderSpec, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    x = F.embedding(input_ids, p[spec.word_embeddings.weight])  # [B, T, E]
    x = x + F.embedding(token_type_ids, p[spec.token_type_embeddings.weight])
    x = x + F.embedding(positions, p[spec.position_embeddings.weight])
    if spec.embeddings_norm:
        x = layer_norm(p, spec, spec.embeddings_norm, x)
    return linear(p, spec.embeddings_projection, x) if spec.embeddings_projection else x  # [B, T, H]


def encoder(
    p: Parameters, spec: EncoderSpec, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None = None
) -> Tensor:
    """Every block in turn; `hidden_states.N` is the input of block N, the last is the result.

    positions: the tokens [N, 2] that the last layer is to compute, as in `encoder_layer`.
    """
    number, last = 0, len(spec.layers) - 1
    for index, block in enumerate(spec.blocks):
        x = tap(f"hidden_states.{index}", x)
        for layer in block:
            wanted = positions if number == last else None
            x = encoder_layer(p, spec, layer, x, mask, lambda name, y, n=number: tap(f"layers.{n}.{name}", y), wanted)
            number += 1
    if spec.final_norm:
        x = layer_norm(p, spec, spec.final_norm, x)
    return tap(f"hidden_states.{len(spec.blocks)}", x)


def encoder_layer(
    p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None = None
) -> Tensor:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    positions: the tokens [N, 2] whose results [N, H] are wanted, each by row and position; all [B, T, H] if None.
    """
    if layer.norm_first:
        attended = attention(p, spec, layer, layer_norm(p, spec, layer.attention_norm, x), mask, tap, positions)
        x = tap("after_attention", tokens_at(x, positions) + attended)
        return x + feed_forward(p, spec, layer, layer_norm(p, spec, layer.output_norm, x), tap)
    x, y = tokens_at(x, positions), attention(p, spec, layer, x, mask, tap, positions)
    x = tap("after_attention", add_and_norm(p, spec, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, spec, layer.output_norm, layer.output_adapter, x, feed_forward(p, spec, layer, x, tap))


def add_and_norm(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter | None, x: Tensor, y: Tensor) -> Tensor:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, spec, norm, x + y)
    z = adapter(p, spec, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, spec, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter, x: Tensor, y: Tensor) -> Tensor:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Tensor:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        return x + y if which == SUM else layer_norm(p, spec, norm, x + y)

    read = take(part.reads)  # [B, T, H]
    z = layer_norm(p, spec, part.norm_before, read) if part.norm_before else read
    z = ACTIVATIONS[part.activation](linear(p, part.down, z))  # [B, T, bottleneck]
    z = linear(p, part.up, z) * (p[part.scaling.name] if isinstance(part.scaling, Scaling) else part.scaling)
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = z + residual
    if part.norm_after:
        z = layer_norm(p, spec, part.norm_after, z)
    return z if part.residual_in_norm else z + residual


def attention(
    p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    heads = (spec.config.num_attention_heads, spec.config.head_size)
    query = tap("query", linear(p, layer.query, x)).unflatten(-1, heads).transpose(1, 2)  # [B, A, T, d]
    key = tap("key", linear(p, layer.key, x)).unflatten(-1, heads).transpose(1, 2)
    value = tap("value", linear(p, layer.value, x)).unflatten(-1, heads).transpose(1, 2)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=heads[1] ** -0.5)
    context = tap("context", tokens_at(context.transpose(1, 2).flatten(2), positions))  # [B, T, H] or [N, H]
    return tap("attention_output", linear(p, layer.attention_output, context))


def tokens_at(x: Tensor, positions: Tensor | None) -> Tensor:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    return x if positions is None else x[positions[:, 0], positions[:, 1]]


def feed_forward(p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, tap: Tap) -> Tensor:
    """Two linear layers with the activation between them."""
    x = tap("intermediate", ACTIVATIONS[spec.config.activation](linear(p, layer.intermediate, x)))  # [B, T, I]
    return tap("output", linear(p, layer.output, x))  # [B, T, H]


def pooler(p: Parameters, dense: Linear, x: Tensor) -> Tensor:
    """tanh of a linear layer over the first token: [B, H]."""
    return torch.tanh(linear(p, dense, x[:, 0]))


def sentence_embedding(pooling: Pooling, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, H]: each row's own tokens as one vector."""
    kept = attention_mask[..., None].to(x.dtype)  # [B, T, 1]
    if pooling.mode == "mean":
        pooled = (x * kept).sum(1) / kept.sum(1).clamp(min=1)
    elif pooling.mode == "max":
        pooled = x.masked_fill(kept == 0, torch.finfo(x.dtype).min).amax(1) * kept.amax(1)
    else:
        pooled = x[torch.arange(len(x), device=x.device), attention_mask.argmax(1)]
    return pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=SHORTEST_NORM) if pooling.normalize else pooled


def mlm_head(p: Parameters, spec: EncoderSpec, head: MaskedLMHead, x: Tensor) -> Tensor:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [B, T, E]
    return F.linear(layer_norm(p, spec, head.norm, x), p[head.decoder], p[head.decoder_bias])


def linear_head(p: Parameters, head: LinearHead, x: Tensor, pooled: Tensor | None) -> Tensor:
    """Label logits over every token, the first token, or the pooler's output."""
    x = {"tokens": x, "first_token": x[:, 0], "pooler": pooled}[head.over]
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x))
    x = linear(p, head.projection, x)
    return x.squeeze(-1) if head.squeeze else x


def linear(p: Parameters, layer: Linear, x: Tensor) -> Tensor:
    """x Wᵀ + b."""
    weight, bias = p[layer.weight], p[layer.bias]
    if weight.is_mkldnn:  # packed
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def can_pack(device: str) -> bool:
    """Whether `pack` works here."""
    return device == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(weight: Tensor) -> Tensor:
    """A kernel laid out as oneDNN's products read it, as torch.compile's compiler does; only `linear` can use it.

    On an AMD processor with AVX-512 a product took 0.6 to 0.85 of the time of `F.linear`, which is MKL's.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def layer_norm(p: Parameters, spec: EncoderSpec, norm: Norm, x: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450)."""
    return F.layer_norm(x, (norm.size,), p[norm.weight], p[norm.bias], norm.epsilon)


def _register(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a parameter under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
