"""Family: how one `model_type` names its tensors. The families themselves are in `yizhi.model.architectures`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from yizhi.model.adapters import bottleneck
from yizhi.model.config import EncoderConfig
from yizhi.model.image_config import BOX, ImageConfig
from yizhi.model.label_heads import LABEL_HEADS, LabelHeadNames
from yizhi.model.spec import (
    Adapter,
    Dense,
    Embedding,
    EncoderSpec,
    ImageStream,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Rotary,
)


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's parts, inside the layer. Adapters have their own name after that of their place.

    query, key, value: one name where one linear layer gives all three. up: see `yizhi.model.spec.Layer`.
    """

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str
    up: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    attention_adapters: str | None = None
    output_adapters: str | None = None


@dataclass(frozen=True)
class MaskedLMNames:
    """Names of a masked-LM head, or of a causal one, which is a decoder alone: then the others are empty.

    decoder_bias_alias: a second name that some files use for the bias.
    activation: fixed by the family, whatever `hidden_act` says; None follows the configuration.
    """

    untied_decoder: str
    dense: str = ""
    norm: str = ""
    decoder_bias: str = ""
    decoder_bias_alias: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class DiscriminatorNames:
    """Names of a replaced-token head."""

    dense: str
    projection: str


@dataclass(frozen=True)
class ImageNames:
    """Names of an image stream's parts. layer: the name of a layer of its own, with {block} for its number."""

    features: str
    boxes: str
    norm: str
    layer: str
    pooler: str
    region_dense: str
    region_norm: str
    region_projection: str
    match: str


@dataclass(frozen=True)
class Family:
    """How one `model_type` names its tensors, without `.weight` and `.bias` where a module has both.

    class_name: what transformers' classes of this family begin with.
    prefix: what the encoder's names start with; files saved from the bare encoder leave it out.
    layer: a layer's name, with {block}, {group} and {inner} for its numbers.
    embeddings_projection: from embedding_size to hidden_size; `projects_always`, or where they differ.
    norm_first: LayerNorm before each sub-layer, and a final one. centred, causal: see `yizhi.model.spec`.
    first_attention_norm: False where the first layer has none before its attention.
    gated: the feed-forward has a gate. interleaved: of rotary positions (see `yizhi.model.spec.Rotary`).
    swaps_attention: the `adapters` library takes attention's input for its output there, and the other way round.
    label_heads: of each task that gives labels and has a class of this family in transformers.
    image: of an image stream beside the text. Its poolers use `pooler_activation`, as the text's.
    ignored: name patterns (fnmatch) that may be present and are not used, each with the reason.
    """

    class_name: str
    prefix: str
    word_embeddings: str
    layer: str
    layer_names: LayerNames
    masked_lm_names: MaskedLMNames
    position_embeddings: str | None = None
    token_type_embeddings: str | None = None
    task_type_embeddings: str | None = None
    embeddings_norm: str | None = None
    embeddings_projection: str | None = None
    projects_always: bool = False
    norm_first: bool = False
    centred: bool = True
    causal: bool = False
    first_attention_norm: bool = True
    gated: bool = False
    interleaved: bool = False
    swaps_attention: bool = False
    final_norm: str | None = None
    pooler: str | None = None
    pooler_activation: str = "tanh"
    image: ImageNames | None = None
    discriminator: DiscriminatorNames | None = None
    label_heads: Mapping[str, LabelHeadNames] = field(default_factory=lambda: LABEL_HEADS)
    ignored: Mapping[str, str] = field(default_factory=dict)

    def encoder(self, config: EncoderConfig, has_pooler: bool) -> EncoderSpec:
        """The spec without a head."""
        hidden, width = config.hidden_size, config.embedding_size
        projection = self.embeddings_projection if self.projects_always or width != hidden else None
        return EncoderSpec(
            config=config,
            task="features",
            word_embeddings=Embedding(self.word_embeddings, config.vocab_size, width),
            position_embeddings=_table(self.position_embeddings, config.max_position_embeddings, width),
            token_type_embeddings=_table(self.token_type_embeddings, config.type_vocab_size, width),
            task_type_embeddings=_table(self.task_type_embeddings, config.task_type_vocab_size, width),
            embeddings_norm=self._norm(self.embeddings_norm, width, config) if self.embeddings_norm else None,
            embeddings_projection=Linear(projection, width, hidden) if projection else None,
            blocks=tuple(self._block(config, number) for number in range(config.depth)),
            final_norm=self._norm(self.final_norm, hidden, config) if self.final_norm else None,
            pooler=self._pooler(self.pooler, config) if self.pooler and (has_pooler or config.image) else None,
            head=None,
            padding_idx=config.padding_idx,
            image=self._image(self.image, config, config.image) if self.image and config.image else None,
        )

    @property
    def lm_task(self) -> str:
        """What the head with the vocabulary's logits is for."""
        return "text-generation" if self.causal else "fill-mask"

    def masked_lm(self, config: EncoderConfig) -> MaskedLMHead:
        """The masked-LM head, its decoder tied to the word embeddings as the configuration says."""
        names, size, bias = self.masked_lm_names, config.embedding_size, config.layers.classifier_bias
        return MaskedLMHead(
            dense=Linear(names.dense, config.hidden_size, size, bias) if names.dense else None,
            activation=names.activation or config.head_activation,
            norm=self._norm(names.norm, size, config) if names.norm else None,
            decoder=f"{self.word_embeddings if config.tie_word_embeddings else names.untied_decoder}.weight",
            decoder_bias=(names.decoder_bias or None) if config.layers.decoder_bias else None,
            vocab_size=config.vocab_size,
            size=size,
        )

    def replaced_token(self, config: EncoderConfig) -> LinearHead | None:
        """The discriminator's head, if the family has one."""
        if self.discriminator is None:
            return None
        return LinearHead(
            over="tokens",
            dense=Dense(Linear(self.discriminator.dense, config.hidden_size, config.hidden_size), config.activation),
            projection=Linear(self.discriminator.projection, config.hidden_size, 1),
            squeeze=True,
        )

    def under(self, prefix: str, **changes: Any) -> "Family":
        """The same names under another prefix, with these fields changed."""
        names = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            field: f"{prefix}{name.removeprefix(self.prefix)}"
            for field, name in names.items()
            if isinstance(name, str) and name.startswith(f"{self.prefix}.")
        }
        return replace(self, prefix=prefix, **{**moved, **changes})

    @property
    def norm_parts(self) -> set[str]:
        """The ends of LayerNorm names. Only LayerNorms may spell their parts gamma and beta."""
        norms = (self.layer_names.attention_norm, self.layer_names.output_norm, self.masked_lm_names.norm)
        return {name.rpartition(".")[2] for name in (*norms, self.embeddings_norm, self.final_norm) if name}

    @property
    def bare_parts(self) -> set[str]:
        """The first parts of the encoder's names in files without the prefix."""
        embeddings = (self.word_embeddings, self.position_embeddings, self.token_type_embeddings)
        others = (self.embeddings_norm, self.embeddings_projection, self.final_norm, self.pooler, self.layer)
        of_image = (self.image.features, self.image.pooler) if self.image else ()
        names = [name.removeprefix(f"{self.prefix}.") for name in (*embeddings, *others, *of_image) if name]
        return {name.partition(".")[0] for name in names}

    def _pooler(self, name: str, config: EncoderConfig) -> Dense:
        width = config.image.pooled if config.image else config.hidden_size
        return Dense(Linear(name, config.hidden_size, width), self.pooler_activation)

    def _image(self, names: ImageNames, config: EncoderConfig, image: ImageConfig) -> ImageStream:
        hidden, own = config.hidden_size, config.of_image(image)
        return ImageStream(
            config=own,
            features=Linear(names.features, image.features, hidden),
            boxes=Linear(names.boxes, BOX, hidden),
            norm=self._norm(names.norm, hidden, config),
            shared=config.num_hidden_layers,
            blocks=tuple(
                (self._layer(own, names.layer.format(block=number), number),) for number in range(image.layers)
            ),
            pooler=self._pooler(names.pooler, config),
            region_head=LinearHead(
                over="tokens",
                dense=Dense(
                    Linear(names.region_dense, hidden, hidden),
                    config.activation,
                    self._norm(names.region_norm, hidden, config),
                ),
                projection=Linear(names.region_projection, hidden, image.classes),
            ),
            fusion=image.fusion,
            match=Linear(names.match, image.pooled, 2),
        )

    def _block(self, config: EncoderConfig, number: int) -> tuple[Layer, ...]:
        # Block b belongs to group floor(b · groups / blocks), as in transformers' AlbertTransformer.
        group = int(number / (config.num_hidden_layers / config.num_hidden_groups))
        return tuple(
            self._layer(
                config,
                self.layer.format(block=number, group=group, inner=inner),
                group * config.inner_group_num + inner if "{group}" in self.layer else number,
            )
            for inner in range(config.inner_group_num)
        )

    def _layer(self, config: EncoderConfig, name: str, number: int) -> Layer:
        hidden, inner, names, said = config.hidden_size, config.intermediate_size, self.layer_names, config.layers
        width = config.num_attention_heads * config.head_size
        shared = config.num_key_value_heads * config.head_size
        fused = width + 2 * shared if names.query == names.key == names.value else None
        output_bias = said.attention_bias if said.attention_output_bias is None else said.attention_output_bias
        base, adapters = said.rope_theta(number), self._adapters(config, name, number)
        has_norm = self.first_attention_norm or number > 0
        return Layer(
            query=Linear(f"{name}.{names.query}", hidden, fused or width, said.attention_bias),
            key=Linear(f"{name}.{names.key}", hidden, fused or shared, said.attention_bias),
            value=Linear(f"{name}.{names.value}", hidden, fused or shared, said.attention_bias),
            attention_output=Linear(f"{name}.{names.attention_output}", width, hidden, output_bias),
            attention_norm=self._norm(f"{name}.{names.attention_norm}", hidden, config) if has_norm else None,
            intermediate=Linear(f"{name}.{names.intermediate}", hidden, inner * (1 + self.gated), said.mlp_bias),
            output=Linear(f"{name}.{names.output}", inner, hidden, said.mlp_bias),
            output_norm=self._norm(f"{name}.{names.output_norm}", hidden, config),
            norm_first=self.norm_first,
            attention_adapter=adapters.get("attention"),
            output_adapter=adapters.get("output"),
            gated=self.gated,
            up=Linear(f"{name}.{names.up}", hidden, inner, said.mlp_bias) if names.up else None,
            query_norm=self._norm(f"{name}.{names.query_norm}", config.head_size, config) if names.query_norm else None,
            key_norm=self._norm(f"{name}.{names.key_norm}", config.head_size, config) if names.key_norm else None,
            causal=self.causal,
            rotary=None if base is None else Rotary(base, self.interleaved, said.rotary_value),
            window=said.window(number),
            farthest=said.max_relative_position,
        )

    def _norm(self, name: str, size: int, config: EncoderConfig) -> Norm:
        return Norm(name, size, config.layer_norm_eps, config.layers.norm_bias, self.centred)

    def _adapters(self, config: EncoderConfig, name: str, number: int) -> dict[str, Adapter]:
        """The layer's adapters, by their place. `number` counts layers that have parameters of their own."""
        adapter, names, hidden = config.adapter, self.layer_names, config.hidden_size
        found: dict[str, Adapter] = {}
        if adapter and adapter.mh_adapter and number not in adapter.leave_out:
            place = f"{name}.{names.attention_adapters}"
            found["attention"] = bottleneck(adapter, place, hidden, number, self.swaps_attention)
        if adapter and adapter.output_adapter and number not in adapter.leave_out:
            found["output"] = bottleneck(adapter, f"{name}.{names.output_adapters}", hidden, number)
        return found


def _table(name: str | None, rows: int | None, size: int) -> Embedding | None:
    return Embedding(name, rows, size) if name and rows else None
