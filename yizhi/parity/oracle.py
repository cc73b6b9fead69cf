"""The oracle: the forward pass in float64 numpy, straight from the checkpoint.

It is written from the formulas, to be read, not to be fast. It shares only the spec with the forwards, and not even
their style: tokens are the rows of one matrix, without the padding at the right of each text, and attention takes one
head of one text at a time. So a mistake that was copied into all forwards is not in the oracle. `test_oracle.py`
compares it with transformers' PyTorch classes in float64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from yizhi.model.spec import (
    IMAGE_PREFIX,
    INPUT,
    MASK_VALUE,
    MATCH_LOGITS,
    NORMED,
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
from yizhi.runtimes.base import Inputs

Array = NDArray[np.float64]
Step = Callable[..., Any]
T = TypeVar("T")

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    # x Φ(x), and its approximation by tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415); x σ(x), from the same paper.
    "gelu_erf": lambda x: x * ndtr(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * expit(x),
    "relu": lambda x: np.where(x > 0, x, 0),
    "tanh": np.tanh,
    "identity": np.positive,
}


class Source(Protocol):
    """The part of a checkpoint that the oracle reads; or the same of a checkpoint with a fault."""

    spec: EncoderSpec

    def array(self, name: str) -> NDArray:
        """A parameter by its canonical name."""

    def release(self, name: str) -> None:
        """Free the memory behind the parameter."""


class Parameters:
    """Float64 parameters by canonical name.

    The first ones read are kept for later passes, up to a limit in bytes. Of the others, only the one in use takes
    memory. Several passes may read at once.
    """

    def __init__(self, checkpoint: Source, keep: int = 0) -> None:
        self._checkpoint = checkpoint
        self._room = keep
        self._kept: dict[str, Array] = {}
        self._reading = Lock()

    def __getitem__(self, name: str) -> Array:
        with self._reading:
            if name in self._kept:
                return self._kept[name]
            array = self._checkpoint.array(name).astype(np.float64)
            self._checkpoint.release(name)
            if array.nbytes <= self._room:
                self._room -= array.nbytes
                self._kept[name] = array
            return array

    def rows(self, name: str, ids: NDArray[np.int64]) -> Array:
        """`self[name][ids]` without converting the whole table."""
        return self._checkpoint.array(name)[ids].astype(np.float64)


@dataclass(frozen=True)
class Pass:
    """One run over N tokens: of B rows of T, those up to each row's last real one.

    lengths: the number of tokens of each row, at least one. mask: added to attention scores, [B, 1, 1, T], or
    [B, A, 1, T] if heads differ. tap: called with each named tensor, [N, …].
    steps: replacements of functions of this module, by name. A known mistake is made with them on purpose.
    """

    parameters: Parameters
    spec: EncoderSpec
    lengths: Sequence[int]
    mask: Array
    tap: Callable[[str, Array], None]
    steps: Mapping[str, Step] = field(default_factory=dict)

    def take(self, step: Callable[..., T], *arguments: Any) -> T:
        """The step of this name, or its replacement."""
        taken: T = self.steps.get(step.__name__, step)(self, *arguments)
        return taken

    @property
    def places(self) -> NDArray[np.int64]:
        """Which of the B·T tokens of the batch the N are, [N]."""
        length = self.mask.shape[-1]
        return np.concatenate([row * length + np.arange(own) for row, own in enumerate(self.lengths)])

    def fill(self, x: Array) -> Array:
        """[N, …] -> [B, T, …], zeros at the padding that is left out."""
        batch, length = self.mask.shape[0], self.mask.shape[-1]
        y = np.zeros((batch * length, *x.shape[1:]))
        y[self.places] = x
        return y.reshape(batch, length, *x.shape[1:])

    def pack(self, x: Array) -> Array:
        """[B, T, …] -> [N, …]."""
        return x.reshape(-1, *x.shape[2:])[self.places]


def run(
    checkpoint: Source,
    inputs: Inputs,
    outputs: set[str] | None = None,
    logit_positions: NDArray[np.int64] | None = None,
    parameters: Parameters | None = None,
    steps: Mapping[str, Step] | None = None,
) -> dict[str, Array]:
    """Every output of the checkpoint, or the named ones, in float64. Numbers at padding are arbitrary.

    logit_positions: [N, 2] pairs of (row, position). Token `logits` are then [N, V], computed only there. parameters:
    the checkpoint's, if several passes share them. steps: of `Pass`.
    """
    spec = checkpoint.spec
    wanted = outputs or {name for names in spec.signatures().values() for name in names}
    found: dict[str, Array] = {}
    read = parameters or Parameters(checkpoint)

    def start(of: EncoderSpec, mask: NDArray[np.int64], prefix: str = "") -> Pass:
        def tap(name: str, x: Array) -> None:
            if prefix + name in wanted:
                found[prefix + name] = made.fill(x)

        made = see(Pass(read, of, (), np.empty(0), tap, steps or {}), mask)
        return made

    inputs = inputs.complete(spec.config)
    p = start(spec, inputs.attention_mask)
    encoded, shared = embed(p, inputs), 0
    outside: dict[str, Callable[[], Array]] = {}
    if spec.image and inputs.image_mask is not None:
        of_image, shared = start(spec.of_image, inputs.image_mask, IMAGE_PREFIX), spec.image.shared
        regions = p.take(region_embeddings, spec.image, inputs.image_features, inputs.image_boxes)  # [B, R, H]
        encoded, regions = encode_together(p, of_image, shared, encoded, of_image.pack(regions))
        if spec.reads_image(wanted):
            regions = encode(of_image, regions, shared)
            of_image.tap("last_hidden_state", regions)
            regions = of_image.fill(regions)
            outside |= image_outputs(p, spec.image, regions, lambda: p.take(pooler, spec.pooler, states))
    encoded = encode(p, encoded, shared)
    p.tap("last_hidden_state", encoded)
    states = p.fill(encoded)  # [B, T, H]
    outside |= text_outputs(p, states, inputs.attention_mask, logit_positions)
    return found | {name: compute() for name, compute in outside.items() if name in wanted}


def see(p: Pass, attention_mask: NDArray[np.int64]) -> Pass:
    """The pass with this mask [B, T]."""
    mask = (1 - attention_mask)[:, None, None, :] * np.float64(MASK_VALUE)
    # Nothing right reads what is beyond a row's last token. A mistake made on purpose may.
    own = [int(np.flatnonzero(row).max(initial=0)) + 1 for row in attention_mask]
    return replace(p, lengths=[mask.shape[-1]] * len(own) if p.steps else own, mask=mask)


def embed(p: Pass, inputs: Inputs) -> Array:
    """LayerNorm(word + position + token type), projected to H where the family has that: [N, H]."""
    tables = (
        (p.spec.word_embeddings, inputs.input_ids.ravel()),
        (p.spec.position_embeddings, p.take(position_ids, inputs.input_ids)),
        (p.spec.token_type_embeddings, inputs.token_type_ids.ravel()),
        (p.spec.task_type_embeddings, np.zeros(inputs.input_ids.size, int)),
    )
    x = np.sum([p.parameters.rows(table.weight, ids[p.places]) for table, ids in tables if table], axis=0)  # [N, E]
    if p.spec.embeddings_norm:
        x = p.take(layer_norm, p.spec.embeddings_norm, x)
    if p.spec.embeddings_projection:
        x = p.take(linear, p.spec.embeddings_projection, x)
    return x


def position_ids(p: Pass, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each token's row of the position table, [B·T]: its place in its own row, or as `padding_idx` of the spec says."""
    padding, rows = p.spec.padding_idx, []
    for ids in input_ids:
        places = np.arange(len(ids))
        if padding is not None:
            texts = np.flatnonzero(ids != padding)
            places = np.full(len(ids), padding)
            places[texts] = padding + 1 + np.arange(len(texts))
        rows.append(places)
    return np.concatenate(rows)


def region_embeddings(p: Pass, image: ImageStream, features: Array, boxes: Array) -> Array:
    """LayerNorm(W f + b + V x + c) of a region's features f and its box x: [B, R, H]."""
    x = p.take(linear, image.features, features.astype(np.float64))
    return p.take(layer_norm, image.norm, x + p.take(linear, image.boxes, boxes.astype(np.float64)))


def encode_together(p: Pass, of_image: Pass, shared: int, x: Array, y: Array) -> tuple[Array, Array]:
    """The shared blocks over tokens and regions: a row is the regions of its image, then its tokens."""
    regions = of_image.mask.shape[-1]
    mask = p.take(join_masks, 1 * (p.mask[:, 0, 0] == 0), 1 * (of_image.mask[:, 0, 0] == 0))
    joined = replace(see(p, mask), lengths=[regions + length for length in p.lengths])

    def part(z: Array) -> tuple[Array, Array]:
        filled = joined.fill(z)
        return p.pack(filled[:, regions:]), of_image.pack(filled[:, :regions])

    def tap(name: str, z: Array) -> None:
        for one, states in zip((p, of_image), part(z), strict=True):
            one.tap(name, states)

    z = joined.pack(np.concatenate((of_image.fill(y), p.fill(x)), axis=1))
    return part(run_blocks(replace(joined, tap=tap), z, 0, shared))


def join_masks(p: Pass, attention_mask: NDArray[np.int64], image_mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return np.concatenate((image_mask, attention_mask), axis=1)


def text_outputs(
    p: Pass, states: Array, attention_mask: NDArray[np.int64], logit_positions: NDArray[np.int64] | None
) -> dict[str, Callable[[], Array]]:
    """What is made of the text's last hidden states [B, T, H]. logit_positions: of `run`."""
    spec, head = p.spec, p.spec.head
    found: dict[str, Callable[[], Array]] = {}
    if spec.pooler:
        found["pooler_output"] = lambda: p.take(pooler, spec.pooler, states)
    if spec.pooling:
        found[SENTENCE_EMBEDDING] = lambda: p.take(sentence_embedding, spec.pooling, states, attention_mask)
    if spec.token_weights:
        found[TOKEN_WEIGHTS] = lambda: p.take(token_weights, spec.token_weights, states, attention_mask)
    if spec.token_vectors:
        found[TOKEN_VECTORS] = lambda: p.take(token_vectors, spec.token_vectors, states, attention_mask)
    if isinstance(head, MaskedLMHead):
        found[TERM_WEIGHTS] = lambda: p.take(term_weights, mlm_head(p, head, states), attention_mask)
        at = states if logit_positions is None else states[tuple(logit_positions.T)]
        found["logits"] = lambda: mlm_head(p, head, at)
    elif head:
        pooled = found.get("pooler_output", lambda: None)
        found["logits"] = lambda: p.take(linear_head, head, states, pooled(), attention_mask)
    return found


def image_outputs(
    p: Pass, image: ImageStream, regions: Array, pooled: Callable[[], Array]
) -> dict[str, Callable[[], Array]]:
    """What is made of the image's last hidden states [B, R, H], and for `match_logits` of the text's pooler output."""

    def image_pooled() -> Array:
        found: Array = p.take(pooler, image.pooler, regions)
        return found

    return {
        f"{IMAGE_PREFIX}pooler_output": image_pooled,
        REGION_LOGITS: lambda: p.take(linear_head, image.region_head, regions, None, np.ones(regions.shape[:2])),
        MATCH_LOGITS: lambda: p.take(match, image, pooled(), image_pooled()),
    }


def match(p: Pass, image: ImageStream, pooled: Array, image_pooled: Array) -> Array:
    """W (t ⊙ v) + b of the pooled text t and image v, or W (t + v) + b: [B, 2]."""
    fused = pooled * image_pooled if image.fusion == "mul" else pooled + image_pooled
    return p.take(linear, image.match, fused)


def encode(p: Pass, x: Array, start: int = 0) -> Array:
    """Every block from `start` on. `hidden_states.N` is block N's input, and the last of them is the result."""
    x = run_blocks(p, x, start, len(p.spec.blocks))
    if p.spec.final_norm:
        x = p.take(layer_norm, p.spec.final_norm, x)
    p.tap(f"hidden_states.{len(p.spec.blocks)}", x)
    return x


def run_blocks(p: Pass, x: Array, start: int, end: int) -> Array:
    """Each layer of blocks `start` … `end` − 1 in turn."""
    number = sum(len(block) for block in p.spec.blocks[:start])
    for index, block in enumerate(p.spec.blocks[start:end], start):
        p.tap(f"hidden_states.{index}", x)
        for layer in block:
            x = run_layer(replace(p, tap=partial(_tap_inside, p, number)), layer, x)
            number += 1
    return x


def _tap_inside(p: Pass, number: int, name: str, x: Array) -> None:
    p.tap(f"layers.{number}.{name}", x)


def run_layer(p: Pass, layer: Layer, x: Array) -> Array:
    """For f = attention, then f = feed-forward: LayerNorm(x + f(x)), or x + f(LayerNorm(x)) with norm_first."""
    halves = (
        (attention, layer.attention_norm, layer.attention_adapter),
        (feed_forward, layer.output_norm, layer.output_adapter),
    )
    for function, norm, part in halves:
        if layer.norm_first or norm is None:
            x = x + p.take(function, layer, x if norm is None else p.take(layer_norm, norm, x))
        else:
            x = p.take(add_and_norm, norm, part, x, p.take(function, layer, x))
        if function is attention:
            p.tap("after_attention", x)
    return x


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Array, y: Array) -> Array:
    """LayerNorm(x + y), or what an adapter makes of it: the last line of `yizhi.model.spec.Adapter`."""
    if part is None:
        return p.take(layer_norm, norm, x + y)
    z = p.take(adapter, norm, part, x, y)
    added = {None: None, INPUT: x, OUTPUT: y}[part.adds]
    return z if added is None else p.take(layer_norm, norm, z + added)


def adapter(p: Pass, norm: Norm, part: Adapter, x: Array, y: Array) -> Array:
    """The z of `yizhi.model.spec.Adapter`: the formulas stand there."""
    known = {INPUT: x, OUTPUT: y, SUM: x + y, NORMED: p.take(layer_norm, norm, x + y)}
    scaling = p.parameters[part.scaling.name] if isinstance(part.scaling, Scaling) else part.scaling

    def normed(by: Norm | None, values: Array) -> Array:
        return values if by is None else p.take(layer_norm, by, values)

    inner = ACTIVATIONS[part.activation](p.take(linear, part.down, normed(part.norm_before, known[part.reads])))
    b = scaling * p.take(linear, part.up, inner)  # [N, H]
    if part.residual_in_norm:
        return normed(part.norm_after, b + known[part.residual])
    return normed(part.norm_after, b) + known[part.residual]


def attention(p: Pass, layer: Layer, x: Array) -> Array:
    """softmax(Q Kᵀ / √d + mask) V for each head of width d (Vaswani et al. 2017, arXiv:1706.03762), projected.

    Head h of the queries has key and value of head ⌊h · K / A⌋, for K heads of those and A of these.
    """
    heads, d = p.spec.config.num_attention_heads, p.spec.config.head_size
    batch, length = p.mask.shape[0], p.mask.shape[-1]
    mask = np.broadcast_to(p.mask, (batch, heads, 1, length))
    if layer.fused:
        query, key, value = np.split(p.take(linear, layer.query, x), 3, axis=1)  # as many heads of each
    else:
        query, key, value = (p.take(linear, part, x) for part in (layer.query, layer.key, layer.value))
    for name, array in (("query", query), ("key", key), ("value", value)):
        p.tap(name, array)
    context = np.empty_like(query)
    sees = np.tri(length, k=length if layer.window is None else layer.window, dtype=bool)  # not too far ahead
    sees &= sees.T
    if layer.causal:
        sees &= np.tri(length, dtype=bool)  # a query's row ends at its own key
    apart = distance_vectors(layer.farthest, length, d) if layer.farthest else []
    for row, (end, own) in enumerate(zip(np.cumsum(p.lengths), p.lengths, strict=True)):
        for head in range(heads):
            shared = head * p.spec.config.num_key_value_heads // heads
            at, there = (np.s_[end - own : end, number * d : (number + 1) * d] for number in (head, shared))
            q, k, v = query[at], key[there], value[there]
            q = p.take(layer_norm, layer.query_norm, q) if layer.query_norm else q
            k = p.take(layer_norm, layer.key_norm, k) if layer.key_norm else k
            if layer.rotary:
                q, k = p.take(rotary, layer.rotary, q), p.take(rotary, layer.rotary, k)
                v = p.take(rotary, layer.rotary, v) if layer.rotary.values else v
            scores = q @ k.T
            if apart:
                scores += [r[:own] @ one for r, one in zip(apart, q, strict=False)]
            weights = softmax(scores / np.sqrt(d) + np.where(sees, mask[row, head], MASK_VALUE)[:own, :own])
            context[at] = weights @ v
            if apart:
                context[at] += [one @ r[:own] for r, one in zip(apart, weights, strict=False)]
    p.tap("context", context)
    result = p.take(linear, layer.attention_output, context)
    p.tap("attention_output", result)
    return result


def distance_vectors(farthest: int, length: int, d: int) -> list[Array]:
    """For each query, the r of `yizhi.model.spec.Layer` of every key, [T, d]: parts of one table of all distances."""
    n = farthest + np.minimum(np.maximum(np.arange(1 - length, length), -farthest), farthest)
    waves = n[:, None] / 10_000.0 ** (np.arange(d) // 2 * 2 / d)
    table = np.where(np.arange(d) % 2, np.cos(waves), np.sin(waves))
    return [table[length - 1 - place :][:length] for place in range(length)]


def rotary(p: Pass, turn: Rotary, x: Array) -> Array:
    """Each pair of elements as a complex number, times exp(i · angle): one head of one row [T, d]."""
    length, d = x.shape
    angles = np.outer(np.arange(length), turn.base ** (-2 * np.arange(d // 2) / d))
    real, imaginary = (np.s_[:, 0::2], np.s_[:, 1::2]) if turn.interleaved else (np.s_[:, : d // 2], np.s_[:, d // 2 :])
    turned = (x[real] + 1j * x[imaginary]) * np.exp(1j * angles)
    y = np.empty_like(x)
    y[real], y[imaginary] = turned.real, turned.imag
    return y


def softmax(scores: Array) -> Array:
    """exp(s) / Σ exp(s) over the last axis; the greatest is taken from each first, which changes nothing else."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def feed_forward(p: Pass, layer: Layer, x: Array) -> Array:
    """W₂ activation(W₁ x + b₁) + b₂; with a gate, W₂ (activation(W₁ x + b₁) ⊙ (V x + c)) + b₂.

    V and c are the second halves of `intermediate`, W₁ and b₁ the first; or they are `up`.
    """
    wide, act = p.take(linear, layer.intermediate, x), ACTIVATIONS[p.spec.config.activation]
    inner = layer.output.inputs  # I
    gate = p.take(linear, layer.up, x) if layer.up else wide[:, inner:] if layer.gated else 1
    wide = act(wide[:, :inner]) * gate  # [N, I]
    p.tap("intermediate", wide)
    result = p.take(linear, layer.output, wide)
    p.tap("output", result)
    return result


def pooler(p: Pass, dense: Dense, x: Array) -> Array:
    """activation(W x + b) of each row's first token: [B, T, H] -> [B, pooled]. The activation is mostly tanh."""
    return ACTIVATIONS[dense.activation](p.take(linear, dense.linear, x[:, 0]))


def sentence_embedding(p: Pass, pooling: Pooling, x: Array, attention_mask: NDArray[np.int64]) -> Array:
    """One vector [D] for each row, from its own tokens only. Zeros for a row without tokens."""
    rows = []
    for states, mask in zip(x, attention_mask, strict=True):
        own = states[mask == 1] if mask.any() else np.zeros((1, x.shape[-1]))
        pooled = {"mean": own.mean(axis=0), "max": own.max(axis=0), "cls": own[0], "last": own[-1]}[pooling.mode]
        for dense in pooling.dense:
            pooled = ACTIVATIONS[dense.activation](p.take(linear, dense.linear, pooled))
        rows.append(pooled)
    vectors = p.take(shorten, np.stack(rows), pooling.size(x.shape[-1]))
    return unit(vectors) if pooling.normalize else vectors


def shorten(p: Pass, x: Array, size: int) -> Array:
    """The first `size` numbers of each vector."""
    return x[..., :size]


def unit(x: Array) -> Array:
    """x / ‖x‖ for each vector x along the last axis. A vector of nearly no length is not made longer."""
    return x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), SHORTEST_NORM)


def token_weights(p: Pass, head: Dense, x: Array, attention_mask: NDArray[np.int64]) -> Array:
    """relu(w · x + b) of each token, 0 for padding: [B, T] (Chen et al. 2024, arXiv:2402.03216, section 3.2)."""
    weights = ACTIVATIONS[head.activation](p.take(linear, head.linear, x))[..., 0]
    return np.where(attention_mask == 1, weights, 0)


def token_vectors(p: Pass, dense: Linear, x: Array, attention_mask: NDArray[np.int64]) -> Array:
    """(W x + b) / ‖W x + b‖ of each token, zeros for padding: [B, T, D] (the same section)."""
    return np.where(attention_mask[..., None] == 1, unit(p.take(linear, dense, x)), 0)


def term_weights(p: Pass, logits: Array, attention_mask: NDArray[np.int64]) -> Array:
    """max over a row's own tokens of log(1 + relu(logit)): [B, V]; zeros for a row that has none."""
    each = np.log1p(np.where(logits > 0, logits, 0))
    return np.where(attention_mask[..., None] == 1, each, 0).max(axis=1)


def mlm_head(p: Pass, head: MaskedLMHead, x: Array) -> Array:
    """Vocabulary logits [..., V]: D LayerNorm(activation(W x + b)) + c, D the embedding table where tied.

    Of a causal model's head, D x.
    """
    inner = ACTIVATIONS[head.activation](p.take(linear, head.dense, x)) if head.dense else x
    logits = (p.take(layer_norm, head.norm, inner) if head.norm else inner) @ p.parameters[head.decoder].T
    return logits if head.decoder_bias is None else logits + p.parameters[head.decoder_bias]


def linear_head(p: Pass, head: LinearHead, x: Array, pooled: Array | None, attention_mask: NDArray[np.int64]) -> Array:
    """Label logits over every token, the first token, the mean of a row's own tokens, or the pooler's output."""
    if head.over == "mean":
        y: Array | None = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    else:
        y = pooled if head.over == "pooler" else x[:, 0] if head.over == "first_token" else x
    if head.dense:
        y = ACTIVATIONS[head.dense.activation](p.take(linear, head.dense.linear, y))
        y = p.take(layer_norm, head.dense.norm, y) if head.dense.norm else y
    y = p.take(linear, head.projection, y)
    return y[..., 0] if head.squeeze else y


def linear(p: Pass, layer: Linear, x: Array) -> Array:
    """W x + b, or W x, for each vector x along the last axis."""
    y = x @ p.parameters[layer.weight].T
    return y if layer.bias is None else y + p.parameters[layer.bias]


def layer_norm(p: Pass, norm: Norm, x: Array) -> Array:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4).
    """
    if norm.centred:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    else:
        mean, variance = np.zeros(1), np.einsum("...d,...d->...", x, x)[..., None] / norm.size
    y = (x - mean) / np.sqrt(variance + norm.epsilon) * p.parameters[norm.weight]
    return y if norm.bias is None else y + p.parameters[norm.bias]
