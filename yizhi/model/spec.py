"""EncoderSpec: every parameter of a checkpoint by role (`layer.query`, `head.decoder`).

Every forward pass reads roles, never names, so one forward per framework serves every family; and
the parameters that a checkpoint must hold, with their shapes, follow from the same objects.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from yizhi.model.config import EncoderConfig
from yizhi.storage.codec import LEFT_OUT

# The signature that gives a masked-language model's `logits` [N, V] at chosen `positions` [N, 2] alone, pairs of row
# and position.
LOGITS_AT, POSITIONS = "logits_at", "positions"

# The signature of a causal language model that reads a text in pieces: the keys and values of the tokens before go in,
# and come out with those of its own tokens.
STEP = "step"

# What others' loaders ask a reader's graph for: the two columns of its `logits` [B, T, 2], [B, T] each. An artifact
# that gives them says so under COLUMNS.
SPAN_LOGITS = ("start_logits", "end_logits")
COLUMNS = "columns"

# What hides a padded position: added to its attention scores. The lowest finite float32, so that a
# row of nothing but padding stays finite (every score equal) where -inf would give NaN.
MASK_VALUE = -3.4028234663852886e38

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Those of an image. FLOAT_INPUTS are float32, and all others are integers.
FLOAT_INPUTS = ("image_features", "image_boxes")
IMAGE_INPUTS = (*FLOAT_INPUTS, "image_mask")

# What retrieval asks for. Of each row: one vector [B, D], or a weight for each entry of the vocabulary [B, V]. Of each
# token: its own weight [B, T], or a vector [B, T, D]; both are exactly 0 at padding.
SENTENCE_EMBEDDING, TERM_WEIGHTS = "sentence_embedding", "term_weights"
TOKEN_WEIGHTS, TOKEN_VECTORS = "token_weights", "token_vectors"
ZERO_AT_PADDING = (TOKEN_WEIGHTS, TOKEN_VECTORS)
# All that is made of the last hidden states, in the order in which a fault is looked for.
AFTER_LAYERS = (
    *("pooler_output", SENTENCE_EMBEDDING, *ZERO_AT_PADDING, "logits", TERM_WEIGHTS),
    *("image_pooler_output", "region_logits", "match_logits"),
)
# Ways to make `sentence_embedding`; SPLADE makes `term_weights` of a masked-language model's logits.
SPLADE = "splade"
VECTOR_POOLINGS = ("cls", "mean", "max", "last")
POOLINGS = (*VECTOR_POOLINGS, SPLADE)
# Shorter vectors are not divided by their length: the direction of nothing is noise.
SHORTEST_NORM = 1e-12

# Outputs of an image stream. The others are those of the text, after IMAGE_PREFIX.
IMAGE_PREFIX, REGION_LOGITS, MATCH_LOGITS = "image_", "region_logits", "match_logits"

T = TypeVar("T")

EMBEDDING, KERNEL, VECTOR_BIAS, NORM_SCALE, NORM_OFFSET = "embedding", "kernel", "bias", "norm_scale", "norm_offset"
SCALING = "scaling"

# What an adapter works on: a sub-layer's input x, its output y, x + y, or LayerNorm(x + y).
INPUT, OUTPUT, SUM, NORMED = "input", "output", "sum", "normed"


@dataclass(frozen=True)
class Parameter:
    """One tensor: its canonical name, its kind (see `layout.py`) and its shape in the checkpoint."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Embedding:
    """A lookup table `name.weight` [rows, size]."""

    name: str
    rows: int
    size: int

    @property
    def weight(self) -> str:
        """Canonical name of the table."""
        return f"{self.name}.weight"

    def parameters(self) -> Iterator[Parameter]:
        """The table itself."""
        yield Parameter(self.weight, EMBEDDING, (self.rows, self.size))


@dataclass(frozen=True)
class Linear:
    """`y = x Wᵀ + b`, with `name.weight` [outputs, inputs] and `name.bias` [outputs], or without b."""

    name: str
    inputs: int
    outputs: int
    biased: bool = True

    @property
    def weight(self) -> str:
        """Canonical name of W."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str | None:
        """Canonical name of b, where there is one."""
        return f"{self.name}.bias" if self.biased else None

    def parameters(self) -> Iterator[Parameter]:
        """W, then b."""
        yield Parameter(self.weight, KERNEL, (self.outputs, self.inputs))
        if self.bias:
            yield Parameter(self.bias, VECTOR_BIAS, (self.outputs,))


@dataclass(frozen=True)
class Norm:
    """LayerNorm over the last axis: `name.weight` [size] scales, `name.bias` [size] shifts, where there is one.

    centred: False for RMSNorm, which divides by the root of the mean square and takes off no mean (Zhang and Sennrich
    2019, arXiv:1910.07467).
    """

    name: str
    size: int
    epsilon: float
    biased: bool = True
    centred: bool = True

    @property
    def weight(self) -> str:
        """Canonical name of the scale."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str | None:
        """Canonical name of the offset, where there is one."""
        return f"{self.name}.bias" if self.biased else None

    def parameters(self) -> Iterator[Parameter]:
        """Scale, then offset."""
        yield Parameter(self.weight, NORM_SCALE, (self.size,))
        if self.bias:
            yield Parameter(self.bias, NORM_OFFSET, (self.size,))


@dataclass(frozen=True)
class Scaling:
    """A factor `name` for all of a vector [1], or one for each of its elements [size]."""

    name: str
    size: int

    def parameters(self) -> Iterator[Parameter]:
        """The factors."""
        yield Parameter(self.name, SCALING, (self.size,))


@dataclass(frozen=True)
class Adapter:
    """A bottleneck between a sub-layer and its LayerNorm (Houlsby et al. 2019, arXiv:1902.00751).

    Of x, the sub-layer's input, and y, its output, it makes what LayerNorm(x + y) is without it:

        b = scaling · up(activation(down(norm_before(reads))))
        z = norm_after(b) + residual, or norm_after(b + residual) with residual_in_norm
        LayerNorm(z + adds), or z where adds is None

    reads, residual, adds: INPUT, OUTPUT, SUM or NORMED. Either norm may be None.
    """

    reads: str
    norm_before: Norm | None
    down: Linear
    activation: str
    up: Linear
    scaling: Scaling | float
    residual: str
    residual_in_norm: bool
    norm_after: Norm | None
    adds: str | None


@dataclass(frozen=True)
class Rotary:
    """Positions as turns of each head's queries and keys (Su et al. 2021, arXiv:2104.09864).

    At position m, pair i of the d / 2 pairs of a head's elements turns by the angle m · base^(−2i / d).
    interleaved: pair i is elements 2i and 2i + 1; else i and i + d / 2. values: values turn, too.
    """

    base: float
    interleaved: bool
    values: bool = False


@dataclass(frozen=True)
class Layer:
    """One Transformer layer.

    query, key, value: three linear layers; or the same one three times, whose outputs are those of all side by side.
    Of keys and values there may be fewer heads: each serves as many heads of queries, which follow one another (Ainslie
    et al. 2023, arXiv:2305.13245).
    query_norm, key_norm: of each head's queries and keys, before they turn (Qwen3).
    attention_norm: None where attention reads its input as it is: ModernBERT's first layer, after the embeddings' norm.
    norm_first: each LayerNorm stands before its sub-layer (MegatronBERT).
    gated: `intermediate` gives 2 I outputs, of which the first half is activated and multiplies the second
    (Shazeer 2020, arXiv:2002.05202). up: the linear layer that gives that second half, where it is one of its own.
    causal: a token sees itself and those before it.
    window: how far from a token attention sees, to each side; everywhere if None.
    farthest: where given, key and value k are added, for query q, the vector r of their distance (NEZHA, Wei et al.
    2019, arXiv:1909.00204): with n = farthest + k − q, and k − q cut off at ± farthest,
    r[2i] = sin(n · 10000^(−2i / d)) and r[2i + 1] = cos(n · 10000^(−2i / d)).
    """

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm | None
    intermediate: Linear
    output: Linear
    output_norm: Norm
    norm_first: bool = False
    attention_adapter: Adapter | None = None
    output_adapter: Adapter | None = None
    gated: bool = False
    up: Linear | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    causal: bool = False
    rotary: Rotary | None = None
    window: int | None = None
    farthest: int | None = None

    @property
    def fused(self) -> bool:
        """Whether one linear layer gives queries, keys and values."""
        return self.query == self.key == self.value


@dataclass(frozen=True)
class MaskedLMHead:
    """Transform, LayerNorm, and a decoder to vocabulary logits [B, T, V]; a causal model's head is a decoder alone.

    `decoder` is the canonical name of the [V, E] matrix: the word embeddings when tied. size: E.
    """

    dense: Linear | None
    activation: str
    norm: Norm | None
    decoder: str
    decoder_bias: str | None
    vocab_size: int
    size: int

    def parameters(self) -> Iterator[Parameter]:
        """The transform, its norm, the decoder and its bias.

        A tied decoder is the embedding table, which comes earlier. `EncoderSpec.parameters` has it once.
        """
        yield from self.transform()
        yield Parameter(self.decoder, KERNEL, (self.vocab_size, self.size))
        if self.decoder_bias:
            yield Parameter(self.decoder_bias, VECTOR_BIAS, (self.vocab_size,))

    def transform(self) -> Iterator[Parameter]:
        """What comes before the decoder, if anything."""
        for part in (self.dense, self.norm):
            yield from part.parameters() if part else ()

    @property
    def decoder_name(self) -> str:
        """The name of the product with the decoder. It follows the bias, which is the head's own even if W is not."""
        return (self.decoder_bias or self.decoder).rpartition(".")[0]


@dataclass(frozen=True)
class Dense:
    """A linear layer with its activation, and a LayerNorm after that where there is one."""

    linear: Linear
    activation: str
    norm: Norm | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class LinearHead:
    """An optional dense layer, with a LayerNorm if there is one, then a projection to labels.

    over: `tokens` gives logits [B, T, labels]; `first_token`, `mean` (of a row's own tokens) and `pooler`, [B, labels].
    squeeze: drop a single label's axis, so `tokens` gives [B, T] (replaced-token detection).
    labels: their names, in the order of the logits, where the head gives labels.
    problem_type: of a sequence's labels: `regression`, `single_label_classification` or `multi_label_classification`.
    """

    over: str
    dense: Dense | None
    projection: Linear
    squeeze: bool = False
    labels: tuple[str, ...] = ()
    problem_type: str | None = None


@dataclass(frozen=True)
class Pooling:
    """How a row's own tokens, never its padding, become one vector. A row that is all padding gives finite numbers.

    mode: `sentence_embedding` [B, D] is the `mean` of their last hidden states, the `max`, or one of them: `cls` the
    first, `last` the last. `splade` gives `term_weights` [B, V] instead, max over them of log(1 + relu(vocabulary
    logits)) (Formal et al. 2021, arXiv:2109.10086, equation 6); the other fields are then unused.
    dense: layers that the pooled vector goes through. dimensions: then only the first `dimensions` numbers are kept
    (Kusupati et al. 2022, arXiv:2205.13147). normalize: then the vector is divided by its L2 norm.
    """

    mode: str
    normalize: bool = False
    dimensions: int | None = field(default=None, metadata=LEFT_OUT)
    dense: tuple[Dense, ...] = field(default=(), metadata=LEFT_OUT)

    def __str__(self) -> str:
        """In words, as `cls, 256 dimensions, normalized`."""
        parts = [self.mode, *("dense" for _ in self.dense)]
        parts += [f"{self.dimensions} dimensions"] if self.dimensions else []
        return ", ".join([*parts, *(["normalized"] if self.normalize else [])])

    def size(self, hidden: int) -> int:
        """D, for a model with hidden states of this width."""
        return self.dimensions or (self.dense[-1].linear.outputs if self.dense else hidden)


@dataclass(frozen=True)
class ImageStream:
    """An encoder of an image's regions that shares its first blocks with the text (InterBERT, arXiv:2003.13198).

    A region's x = norm(features(f) + boxes(b)), of its features f and its box b. The first `shared` blocks of the text
    see regions and tokens as one row, the regions first: padding after the text then moves nothing. After them, the
    text goes on through its other blocks and the regions through `blocks`, each by itself. region_head gives each
    region's classes. match reads the product (fusion: `mul`) or the sum (`sum`) of both poolers' outputs.
    config: the sizes of `blocks`.
    """

    config: EncoderConfig
    features: Linear
    boxes: Linear
    norm: Norm
    shared: int
    blocks: tuple[tuple[Layer, ...], ...]
    pooler: Dense
    region_head: LinearHead
    fusion: str
    match: Linear


@dataclass(frozen=True)
class EncoderSpec:
    """Every parameter of a checkpoint by role.

    `blocks[i]` maps `hidden_states.i` to `hidden_states.i+1`. It is one layer except in an ALBERT with
    `inner_group_num` > 1. A shared layer appears in several blocks.
    A table that the family does not have is None, and adds nothing. Every token has row 0 of `task_type_embeddings`,
    transformers' default (ERNIE): the task is no input.
    `task` says what `head` computes. It is `features` without a head.
    `pooling` comes from the export's options, or else from the folder's sentence-transformers files; None without
    either.
    `padding_idx`: if given, padding's position is this number. The position of any other token is this number plus its
    place, from 1, among the row's tokens whose id is not this number (fairseq's `make_positions`). If None, positions
    are 0, 1, 2, …
    `token_weights` and `token_vectors` are the heads of BGE-M3 (Chen et al. 2024, arXiv:2402.03216, section 3.2).
    """

    config: EncoderConfig
    task: str
    word_embeddings: Embedding
    position_embeddings: Embedding | None
    token_type_embeddings: Embedding | None
    task_type_embeddings: Embedding | None
    embeddings_norm: Norm | None
    embeddings_projection: Linear | None
    blocks: tuple[tuple[Layer, ...], ...]
    final_norm: Norm | None
    pooler: Dense | None
    head: MaskedLMHead | LinearHead | None
    pooling: Pooling | None = None
    padding_idx: int | None = None
    token_weights: Dense | None = None
    token_vectors: Linear | None = None
    image: ImageStream | None = None

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter once, in the order in which the forward pass first reads it."""
        found: dict[str, Parameter] = {}
        for parameter in parameters_of(self):
            found.setdefault(parameter.name, parameter)
        return tuple(found.values())

    @property
    def tied(self) -> bool:
        """Whether the MLM decoder is the word-embedding table."""
        return isinstance(self.head, MaskedLMHead) and self.head.decoder == self.word_embeddings.weight

    @property
    def masked_lm_head(self) -> MaskedLMHead:
        """The head, if it fills masks. Raises TypeError for another head, or none."""
        if not isinstance(self.head, MaskedLMHead):
            raise TypeError(f"a checkpoint for {self.task} has no masked-language-model head")
        return self.head

    @property
    def head_reads_pooler(self) -> bool:
        """Whether the head works on the pooler's output."""
        return isinstance(self.head, LinearHead) and self.head.over == "pooler"

    @property
    def rotary_bases(self) -> tuple[float, ...]:
        """Each base of the layers' rotary positions, once."""
        return tuple(dict.fromkeys(layer.rotary.base for layer in self.layers if layer.rotary))

    @property
    def farthest(self) -> int | None:
        """The layers' `farthest`. All layers have the same."""
        return self.layers[0].farthest

    @property
    def windows(self) -> tuple[int, ...]:
        """Each window of the layers, once."""
        return tuple(dict.fromkeys(layer.window for layer in self.layers if layer.window is not None))

    @property
    def causal(self) -> bool:
        """Whether any layer is."""
        return any(layer.causal for layer in self.layers)

    @property
    def numbered_blocks(self) -> tuple[tuple[int, tuple[tuple[int, Layer], ...]], ...]:
        """Each block with its number, and each of its layers with the layer's own."""
        numbers = iter(range(len(self.layers)))
        return tuple(
            (index, tuple((next(numbers), layer) for layer in block)) for index, block in enumerate(self.blocks)
        )

    def reads_image(self, outputs: Collection[str]) -> bool:
        """Whether any of these outputs needs the regions' own blocks."""
        return any(reads_image(name) for name in outputs)

    @property
    def of_image(self) -> "EncoderSpec":
        """The encoder that the regions go through, shared blocks included. Raises TypeError without an image stream.

        Its outputs are named as the text's, without IMAGE_PREFIX.
        """
        if self.image is None:
            raise TypeError("the checkpoint has no image stream")
        return replace(
            self,
            config=self.image.config,
            embeddings_norm=self.image.norm,
            blocks=(*self.blocks[: self.image.shared], *self.image.blocks),
            pooler=self.image.pooler,
            head=self.image.region_head,
            pooling=None,
            token_weights=None,
            token_vectors=None,
            image=None,
        )

    @property
    def steps(self) -> bool:
        """Whether this is a causal language model whose tokens' keys and values stay, whatever follows.

        What would need to know how many tokens came before, and what does not stay, is refused here: tables of
        positions and token types, windows, distances and images. No causal family has them.
        """
        stay = all(layer.causal and layer.window is None and layer.farthest is None for layer in self.layers)
        others = self.position_embeddings or self.token_type_embeddings or self.image
        return isinstance(self.head, MaskedLMHead) and stay and not others

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order of computation. A shared layer appears each time."""
        return tuple(layer for block in self.blocks for layer in block)

    def signatures(self) -> dict[str, tuple[str, ...]]:
        """Named groups of outputs: the usual ones, those without the head, and all. A group computes nothing else."""
        found = {
            "pooler_output": self.pooler,
            SENTENCE_EMBEDDING: self.pooling and self.pooling.mode != SPLADE,
            TOKEN_WEIGHTS: self.token_weights,
            TOKEN_VECTORS: self.token_vectors,
        }
        features = ("last_hidden_state", *(name for name, part in found.items() if part))
        layers = tuple(f"hidden_states.{index}" for index in range(len(self.blocks) + 1))
        terms = (TERM_WEIGHTS,) if self.pooling and self.pooling.mode == SPLADE else ()
        default = ("logits", *features, *terms) if self.head else features
        if self.image:
            theirs = self.of_image.signatures()
            of_image = tuple(f"{IMAGE_PREFIX}{name}" for name in theirs["features"])
            features, default = (*features, *of_image), (*default, *of_image, REGION_LOGITS, MATCH_LOGITS)
            layers += tuple(f"{IMAGE_PREFIX}{name}" for name in theirs["hidden_states"] if "hidden_states" in name)
        return {"serving_default": default, "features": features, "hidden_states": (*default, *layers)}

    def input_axes(self) -> dict[str, tuple[str | int, ...]]:
        """The shape of each input."""
        axes: dict[str, tuple[str | int, ...]] = dict.fromkeys(TEXT_INPUTS, ("batch", "length"))
        if self.image:
            axes |= {
                "image_features": ("batch", "regions", self.image.features.inputs),
                "image_boxes": ("batch", "regions", self.image.boxes.inputs),
                "image_mask": ("batch", "regions"),
            }
        return axes

    def output_axes(self, output: str) -> tuple[str | int, ...]:
        """The shape of an output, with `batch`, `length` and `regions` for the axes of the inputs."""
        if output == MATCH_LOGITS and self.image:
            return ("batch", self.image.match.outputs)
        if output == REGION_LOGITS or output.startswith(IMAGE_PREFIX):
            name = "logits" if output == REGION_LOGITS else output.removeprefix(IMAGE_PREFIX)
            return tuple("regions" if axis == "length" else axis for axis in self.of_image.output_axes(name))
        if output == "pooler_output" and self.pooler:
            return ("batch", self.pooler.linear.outputs)
        if output == SENTENCE_EMBEDDING and self.pooling:
            return ("batch", self.pooling.size(self.config.hidden_size))
        if output == TERM_WEIGHTS:
            return ("batch", self.masked_lm_head.vocab_size)
        if output in (*SPAN_LOGITS, TOKEN_WEIGHTS):
            return ("batch", "length")
        if output == TOKEN_VECTORS and self.token_vectors:
            return ("batch", "length", self.token_vectors.outputs)
        if output != "logits" or self.head is None:
            return ("batch", "length", self.config.hidden_size)
        if isinstance(self.head, MaskedLMHead):
            return ("batch", "length", self.head.vocab_size)
        rows = ("batch", "length") if self.head.over == "tokens" else ("batch",)
        return rows if self.head.squeeze else (*rows, self.head.projection.outputs)


def reads_image(output: str) -> bool:
    """Whether an output of a model with an image stream is the image's, or the match with it."""
    return output in (REGION_LOGITS, MATCH_LOGITS) or output.startswith(IMAGE_PREFIX)


def find_pooling_faults(spec: EncoderSpec) -> Iterator[str]:
    """What a spec's pooling needs and its encoder does not have, a fault each."""
    pooling, size = spec.pooling, spec.config.hidden_size
    if pooling is None:
        return
    if pooling.mode == SPLADE and spec.task != "fill-mask":
        yield f"pooling: {SPLADE} reads a masked-language model's logits; the checkpoint is for {spec.task}"
    if pooling.mode == SPLADE and (pooling.normalize or pooling.dimensions or pooling.dense):
        yield f"pooling: {SPLADE} gives weights of the vocabulary, which are neither cut nor normalized"
    for dense in pooling.dense:
        if dense.linear.inputs != size:
            yield f"{dense.linear.name}: expected {size} inputs; found {dense.linear.inputs}"
        size = dense.linear.outputs
    if pooling.dimensions is not None and not 0 < pooling.dimensions <= size:
        yield f"dimensions: expected 1 … {size}; found {pooling.dimensions}"


def parameters_of(node: object) -> Iterator[Parameter]:
    """The parameters of a role, a layer or a whole spec, in the order of their fields."""
    if hasattr(node, "parameters") and not isinstance(node, EncoderSpec):
        yield from node.parameters()
    elif isinstance(node, tuple):
        for item in node:
            yield from parameters_of(item)
    elif is_dataclass(node) and not isinstance(node, EncoderConfig):
        for field in fields(node):
            yield from parameters_of(getattr(node, field.name))


def without_names(node: T) -> T:
    """A part of a spec, with its parameters' names replaced by numbers, in the order of first use.

    Two equal layers then compute the same, with other parameters. New fields of a layer are compared, too.
    """
    numbers: dict[str, str] = {}

    def number(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(number(item) for item in part)
        if not is_dataclass(part) or isinstance(part, type):
            return part
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(
            part,
            **{
                name: numbers.setdefault(value, str(len(numbers))) if name == "name" else number(value)
                for name, value in values.items()
            },
        )

    renamed: T = number(node)
    return renamed
