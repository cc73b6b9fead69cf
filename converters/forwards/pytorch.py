"""PyTorch: the encoder as an `nn.Module`.

Parameters keep their canonical names, so `state_dict()` and the checkpoint agree key by key.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yizhi.converters.forwards import passes
from yizhi.model.spec import (
    IMAGE_PREFIX,
    INPUT,
    MATCH_LOGITS,
    OUTPUT,
    REGION_LOGITS,
    SENTENCE_EMBEDDING,
    SHORTEST_NORM,
    SUM,
    TERM_WEIGHTS,
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    Adapter,
    Dense,
    EncoderSpec,
    ImageStream,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Pooling,
    Rotary,
    Scaling,
)

Pass = passes.Pass[Tensor]


def gelu_erf(x: Tensor) -> Tensor:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="none")


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


class PyTorchEncoder(nn.Module):
    """An encoder with its head, holding each parameter under its canonical name."""

    def __init__(self, spec: EncoderSpec, tensors: Mapping[str, Tensor]) -> None:
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
        image_features: Tensor | None = None,
        image_boxes: Tensor | None = None,
        image_mask: Tensor | None = None,
        cached: tuple[tuple[Tensor, Tensor], ...] = (),
    ) -> dict[str, Tensor]:
        """The named outputs, from integer tensors [B, T]; with an image stream, from regions [B, R, …] too.

        positions: (row, position) pairs [N, 2]; then the last layer and a masked-language-model head compute
        these tokens alone, and `logits` are [N, V].
        cached: of each layer, the keys and values [B, K, P, d] of P tokens that come before; then `attention_mask` is
        [B, P + T], and there are the outputs `layers.N.present.key` and `.value` [B, K, P + T, d]. Token j is at
        position P + j, whatever the mask says: a whole pass counts padding, too.
        """
        spec, found = self.spec, dict[str, Tensor]()
        tap = passes.keep(outputs, found)
        p = Pass(dict(self.named_parameters()), spec, tap, positions=positions, cached=cached)
        x = embeddings(p, input_ids, token_type_ids)  # [B, T, H]
        start = 0
        if spec.image and image_features is not None and image_boxes is not None and image_mask is not None:
            y = region_embeddings(p, spec.image, image_features, image_boxes)  # [B, R, H]
            x, y = shared_encoder(p, spec.image.shared, x, y, attention_mask, image_mask)
            start = spec.image.shared
        x = encoder(see(p, attention_mask, x), x, start)
        p.tap("last_hidden_state", x)
        reads_pooler = "pooler_output" in outputs or ("logits" in outputs and spec.head_reads_pooler)
        reads_pooler |= MATCH_LOGITS in outputs
        pooled = p.tap("pooler_output", pooler(p, spec.pooler, x)) if spec.pooler and reads_pooler else None
        if SENTENCE_EMBEDDING in outputs and spec.pooling:
            p.tap(SENTENCE_EMBEDDING, sentence_embedding(p, spec.pooling, x, attention_mask))
        if TOKEN_WEIGHTS in outputs and spec.token_weights:
            p.tap(TOKEN_WEIGHTS, token_weights(p, spec.token_weights, x, attention_mask))
        if TOKEN_VECTORS in outputs and spec.token_vectors:
            p.tap(TOKEN_VECTORS, token_vectors(p, spec.token_vectors, x, attention_mask))
        if isinstance(spec.head, MaskedLMHead) and {"logits", TERM_WEIGHTS} & set(outputs):
            logits = p.tap("logits", mlm_head(p, spec.head, x))
            if TERM_WEIGHTS in outputs:
                p.tap(TERM_WEIGHTS, term_weights(p, logits, attention_mask))
        elif "logits" in outputs and isinstance(spec.head, LinearHead):
            p.tap("logits", linear_head(p, spec.head, x, pooled, attention_mask))
        if spec.image and image_mask is not None and spec.reads_image(outputs):
            image_stream(p, spec.image, y, image_mask, pooled)
        return found


def embeddings(p: Pass, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    x = F.embedding(input_ids, p[p.spec.word_embeddings.weight])  # [B, T, E]
    if p.spec.token_type_embeddings:
        x = x + F.embedding(token_type_ids, p[p.spec.token_type_embeddings.weight])
    if p.spec.position_embeddings:
        x = x + F.embedding(position_ids(p, input_ids), p[p.spec.position_embeddings.weight])
    if p.spec.task_type_embeddings:
        x = x + p[p.spec.task_type_embeddings.weight][0]
    if p.spec.embeddings_norm:
        x = layer_norm(p, p.spec.embeddings_norm, x)
    return linear(p, p.spec.embeddings_projection, x) if p.spec.embeddings_projection else x  # [B, T, H]


def position_ids(p: Pass, input_ids: Tensor) -> Tensor:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    if p.spec.padding_idx is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device)
    kept = (input_ids != p.spec.padding_idx).to(input_ids.dtype)
    return kept.cumsum(1) * kept + p.spec.padding_idx


def see(p: Pass, attention_mask: Tensor, x: Tensor) -> Pass:
    """The pass with what attention needs beside the hidden states: masks, and the angles of rotary positions."""
    length, d = attention_mask.shape[1], p.spec.config.head_size
    hidden = torch.finfo(x.dtype).min
    mask = (1 - attention_mask)[:, None, None, :].to(x.dtype) * hidden  # [B, 1, 1, T]
    places = torch.arange(length)
    own = places[length - x.shape[1] :, None]  # [T, 1], after the cached tokens' places
    ahead = (places > own).to(x.device)  # [T, P + T]
    past = mask.masked_fill(ahead, hidden) if p.spec.causal else None
    windows = {}
    for window in p.spec.windows:
        distances = (own - places).abs().to(x.device)  # [T, P + T]
        windows[window] = mask.masked_fill(distances > window, hidden)
    # In float64: an angle in float32 is off by 4e-4 at position 8,191, as it is in transformers' ModernBERT.
    angles = {}
    for base in p.spec.rotary_bases:
        angle = own * base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)  # [T, d / 2]
        angles[base] = angle.cos().to(x), angle.sin().to(x)
    relative = None if p.spec.farthest is None else relative_positions(p.spec.farthest, places, d, x)
    return replace(p, mask=mask, past=past, windows=windows, angles=angles, relative=relative)


def relative_positions(farthest: int, places: Tensor, d: int, x: Tensor) -> Tensor:
    """What a key's distance adds to it and to its value, [T, T, d]; the formula stands at `yizhi.model.spec.Layer`."""
    numbers = torch.arange(2 * farthest + 1)[:, None]
    angle = numbers * 10_000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    table = torch.stack((angle.sin(), angle.cos()), -1).flatten(1).to(x)  # [2 · farthest + 1, d]
    return table[(places - places[:, None]).clamp(-farthest, farthest).to(x.device) + farthest]


def region_embeddings(p: Pass, image: ImageStream, features: Tensor, boxes: Tensor) -> Tensor:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B, R, H]."""
    features, boxes = (x.to(p[image.norm.weight]) for x in (features, boxes))
    return layer_norm(p, image.norm, linear(p, image.features, features) + linear(p, image.boxes, boxes))


def shared_encoder(
    p: Pass, shared: int, x: Tensor, y: Tensor, attention_mask: Tensor, image_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The blocks that tokens x [B, T, H] and regions y [B, R, H] go through as one row, regions first."""
    regions = y.shape[1]

    def tap(name: str, z: Tensor) -> Tensor:
        p.tap(name, z[:, regions:])
        p.tap(f"{IMAGE_PREFIX}{name}", z[:, :regions])
        return z

    z = torch.cat((y, x), 1)  # [B, R + T, H]
    joined = see(replace(p, tap=tap), join_masks(p, attention_mask, image_mask), z)
    z = run_blocks(joined, z, 0, shared)
    return z[:, regions:], z[:, :regions]


def join_masks(p: Pass, attention_mask: Tensor, image_mask: Tensor) -> Tensor:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return torch.cat((image_mask, attention_mask), 1)


def image_stream(p: Pass, image: ImageStream, y: Tensor, image_mask: Tensor, pooled: Tensor | None) -> None:
    """Tap what the image's own blocks and heads make of regions y [B, R, H], after the shared blocks.

    pooled: the text's pooler output, if `match_logits` are wanted.
    """
    own = replace(p, spec=p.spec.of_image, positions=None, tap=lambda name, z: p.tap(f"{IMAGE_PREFIX}{name}", z))
    y = own.tap("last_hidden_state", encoder(see(own, image_mask, y), y, image.shared))
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, None, image_mask))
    if pooled is not None:
        p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def match(p: Pass, image: ImageStream, pooled: Tensor, image_pooled: Tensor) -> Tensor:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    return linear(p, image.match, pooled * image_pooled if image.fusion == "mul" else pooled + image_pooled)


def encoder(p: Pass, x: Tensor, start: int = 0) -> Tensor:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result."""
    x = run_blocks(p, x, start, len(p.spec.blocks))
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: Tensor, start: int, end: int) -> Tensor:
    """Blocks `start` … `end` − 1 in turn."""
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = encoder_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    Gives [N, H] where the pass names positions.
    """
    if layer.norm_first or not layer.attention_norm:
        attended = attention(p, layer, layer_norm(p, layer.attention_norm, x) if layer.attention_norm else x)
        x = p.tap("after_attention", tokens_at(x, p.positions) + attended)
        return x + feed_forward(p, layer, layer_norm(p, layer.output_norm, x))
    x, y = tokens_at(x, p.positions), attention(p, layer, x)
    x = p.tap("after_attention", add_and_norm(p, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, layer.output_norm, layer.output_adapter, x, feed_forward(p, layer, x))


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Tensor, y: Tensor) -> Tensor:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, norm, x + y)
    z = adapter(p, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Pass, norm: Norm, part: Adapter, x: Tensor, y: Tensor) -> Tensor:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Tensor:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        return x + y if which == SUM else layer_norm(p, norm, x + y)

    read = take(part.reads)  # [B, T, H]
    z = layer_norm(p, part.norm_before, read) if part.norm_before else read
    z = ACTIVATIONS[part.activation](linear(p, part.down, z))  # [B, T, bottleneck]
    z = linear(p, part.up, z) * (p[part.scaling.name] if isinstance(part.scaling, Scaling) else part.scaling)
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = z + residual
    if part.norm_after:
        z = layer_norm(p, part.norm_after, z)
    return z if part.residual_in_norm else z + residual


def attention(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    d, shared = p.spec.config.head_size, p.spec.config.num_attention_heads // p.spec.config.num_key_value_heads
    query, key, value = (y.unflatten(-1, (-1, d)).transpose(1, 2) for y in projections(p, layer, x))  # [B, A, T, d]
    query = layer_norm(p, layer.query_norm, query) if layer.query_norm else query
    key = layer_norm(p, layer.key_norm, key) if layer.key_norm else key
    if layer.rotary:
        query, key = rotary(p, layer.rotary, query), rotary(p, layer.rotary, key)
        value = rotary(p, layer.rotary, value) if layer.rotary.values else value
    if p.cached:
        ((earlier_key, earlier_value),) = p.cached
        key = p.tap("present.key", torch.cat((earlier_key, key), 2))  # [B, K, P + T, d]
        value = p.tap("present.value", torch.cat((earlier_value, value), 2))
    key, value = (y.repeat_interleave(shared, 1) if shared > 1 else y for y in (key, value))
    mask = p.past if layer.causal else p.mask if layer.window is None else p.windows[layer.window]
    if layer.farthest is None or p.relative is None:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=d**-0.5)
    else:
        scores = query @ key.transpose(-1, -2) + torch.einsum("baqd,qkd->baqk", query, p.relative)
        weights = torch.softmax(scores * d**-0.5 + mask, -1)
        context = weights @ value + torch.einsum("baqk,qkd->baqd", weights, p.relative)
    context = p.tap("context", tokens_at(context.transpose(1, 2).flatten(2), p.positions))  # [B, T, H] or [N, H]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, A · d], keys and values, [B, T, K · d] each of K heads."""
    if layer.fused:
        query, key, value = linear(p, layer.query, x).chunk(3, -1)
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, turn: Rotary, x: Tensor) -> Tensor:
    """Each pair (a, b) of a head's elements turned by its position's angle: [B, A, T, d]."""
    axis = -1 if turn.interleaved else -2
    a, b = x.unflatten(-1, (-1, 2) if turn.interleaved else (2, -1)).chunk(2, axis)
    cos, sin = (table.unsqueeze(axis) for table in p.angles[turn.base])
    return torch.cat((a * cos - b * sin, b * cos + a * sin), axis).flatten(-2)


def tokens_at(x: Tensor, positions: Tensor | None) -> Tensor:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    return x if positions is None else x[positions[:, 0], positions[:, 1]]


def feed_forward(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Two linear layers with the activation between them, and its gate where there is one."""
    activation, up = ACTIVATIONS[p.spec.config.activation], linear(p, layer.up, x) if layer.up else None
    x = linear(p, layer.intermediate, x)  # [B, T, I], or [B, T, 2 I] with a gate
    if up is not None:
        x = activation(x) * up
    elif layer.gated:
        x, gate = x.chunk(2, -1)
        x = activation(x) * gate
    else:
        x = activation(x)
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [B, T, H]


def pooler(p: Pass, dense: Dense, x: Tensor) -> Tensor:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    return ACTIVATIONS[dense.activation](linear(p, dense.linear, x[:, 0]))


def sentence_embedding(p: Pass, pooling: Pooling, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, D]: each row's own tokens as one vector."""
    kept = attention_mask[..., None].to(x.dtype)  # [B, T, 1]
    if pooling.mode == "mean":
        pooled = (x * kept).sum(1) / kept.sum(1).clamp(min=1)
    elif pooling.mode == "max":
        pooled = x.masked_fill(kept == 0, torch.finfo(x.dtype).min).amax(1) * kept.amax(1)
    elif pooling.mode == "last":
        last = x.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        pooled = x[torch.arange(len(x), device=x.device), last]
    else:
        pooled = x[torch.arange(len(x), device=x.device), attention_mask.argmax(1)]
    for dense in pooling.dense:
        pooled = ACTIVATIONS[dense.activation](linear(p, dense.linear, pooled))
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(pooled) if pooling.normalize else pooled


def shorten(p: Pass, x: Tensor, size: int) -> Tensor:
    """The first so many numbers of each vector."""
    return x[:, :size]


def normalize(x: Tensor) -> Tensor:
    """Each vector along the last axis over its L2 norm."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp(min=SHORTEST_NORM)


def token_weights(p: Pass, head: Dense, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, T]: each token's weight for lexical matching, 0 at padding."""
    weights = ACTIVATIONS[head.activation](linear(p, head.linear, x))  # [B, T, 1]
    return weights.squeeze(-1) * attention_mask.to(x.dtype)


def token_vectors(p: Pass, dense: Linear, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, T, D]: each token's vector of length 1, zeros at padding."""
    return normalize(linear(p, dense, x) * attention_mask[..., None].to(x.dtype))


def term_weights(p: Pass, logits: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    highest = logits.masked_fill(attention_mask[..., None] == 0, 0).amax(1)
    return torch.log1p(F.relu(highest))


def mlm_head(p: Pass, head: MaskedLMHead, x: Tensor) -> Tensor:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [B, T, E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    return F.linear(x, p[head.decoder], p.get(head.decoder_bias))


def linear_head(p: Pass, head: LinearHead, x: Tensor, pooled: Tensor | None, attention_mask: Tensor) -> Tensor:
    """Label logits over every token, the first token, the mean of a row's own tokens, or the pooler's output."""
    if head.over == "pooler" and pooled is not None:
        x = pooled
    elif head.over == "first_token":
        x = x[:, 0]
    elif head.over == "mean":
        x = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    if head.dense:
        x = ACTIVATIONS[head.dense.activation](linear(p, head.dense.linear, x))
        x = layer_norm(p, head.dense.norm, x) if head.dense.norm else x
    x = linear(p, head.projection, x)
    return x.squeeze(-1) if head.squeeze else x


def linear(p: Pass, layer: Linear, x: Tensor) -> Tensor:
    """x Wᵀ + b, or x Wᵀ."""
    weight, bias = p[layer.weight], p.get(layer.bias)
    if weight.is_mkldnn:  # packed
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)


def can_pack(device: str) -> bool:
    """Whether `pack` works here."""
    return device == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(weight: Tensor) -> Tensor:
    """A kernel laid out as oneDNN's products read it, as torch.compile's compiler does; only `linear` can use it.

    On an AMD processor with AVX-512 a product took 0.6 to 0.85 of the time of `F.linear`, which is MKL's.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def layer_norm(p: Pass, norm: Norm, x: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    """
    if not norm.centred:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.epsilon) * p[norm.weight]
    return F.layer_norm(x, (norm.size,), p[norm.weight], p.get(norm.bias), norm.epsilon)


def _register(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a parameter under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
