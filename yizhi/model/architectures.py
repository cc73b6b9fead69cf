"""The families of encoders: how each one names its tensors. One entry of FAMILIES per `model_type`.

A family is a table of names; shapes and roles are the same for all and follow from the
configuration. docs/adding-an-architecture.md walks through adding one.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from yizhi.errors import InputError
from yizhi.model.adapters import bottleneck
from yizhi.model.config import EncoderConfig
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES, LABEL_HEADS, LabelHeadNames, label_head, task_of
from yizhi.model.rotary import ROFORMER_TABLE
from yizhi.model.spec import (
    Adapter,
    Dense,
    Embedding,
    EncoderSpec,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Parameter,
    Rotary,
    parameters_of,
)


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's parts, inside the layer. Adapters have their own name after that of their place.

    query, key, value: one name where one linear layer gives all three.
    """

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str
    attention_adapters: str | None = None
    output_adapters: str | None = None


@dataclass(frozen=True)
class MaskedLMNames:
    """Names of a masked-LM head.

    decoder_bias_alias: a second name that some files use for the bias.
    activation: fixed by the family, whatever `hidden_act` says; None follows the configuration.
    """

    dense: str
    norm: str
    untied_decoder: str
    decoder_bias: str
    decoder_bias_alias: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class DiscriminatorNames:
    """Names of a replaced-token head."""

    dense: str
    projection: str


@dataclass(frozen=True)
class Family:
    """How one `model_type` names its tensors, without `.weight` and `.bias` where a module has both.

    class_name: what transformers' classes of this family begin with.
    prefix: what the encoder's names start with; files saved from the bare encoder leave it out.
    layer: a layer's name, with {block}, {group} and {inner} for its numbers.
    embeddings_projection: from embedding_size to hidden_size; `projects_always`, or where they differ.
    norm_first: LayerNorm before each sub-layer, and a final one.
    first_attention_norm: False where the first layer has none before its attention.
    gated: the feed-forward has a gate. interleaved: of rotary positions (see `yizhi.model.spec.Rotary`).
    swaps_attention: the `adapters` library takes attention's input for its output there, and the other way round.
    label_heads: of each task that gives labels and has a class of this family in transformers.
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
    first_attention_norm: bool = True
    gated: bool = False
    interleaved: bool = False
    swaps_attention: bool = False
    final_norm: str | None = None
    pooler: str | None = None
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
            embeddings_norm=_norm(self.embeddings_norm, width, config) if self.embeddings_norm else None,
            embeddings_projection=Linear(projection, width, hidden) if projection else None,
            blocks=tuple(self._block(config, number) for number in range(config.num_hidden_layers)),
            final_norm=_norm(self.final_norm, hidden, config) if self.final_norm else None,
            pooler=Linear(self.pooler, hidden, hidden) if self.pooler and has_pooler else None,
            head=None,
            padding_idx=config.padding_idx,
        )

    def masked_lm(self, config: EncoderConfig) -> MaskedLMHead:
        """The masked-LM head, its decoder tied to the word embeddings as the configuration says."""
        names = self.masked_lm_names
        return MaskedLMHead(
            dense=Linear(names.dense, config.hidden_size, config.embedding_size, config.layers.classifier_bias),
            activation=names.activation or config.head_activation,
            norm=_norm(names.norm, config.embedding_size, config),
            decoder=f"{self.word_embeddings if config.tie_word_embeddings else names.untied_decoder}.weight",
            decoder_bias=names.decoder_bias if config.layers.decoder_bias else None,
            vocab_size=config.vocab_size,
        )

    def replaced_token(self, config: EncoderConfig) -> LinearHead | None:
        """The discriminator's head, where the family has one."""
        if self.discriminator is None:
            return None
        return LinearHead(
            over="tokens",
            dense=Dense(Linear(self.discriminator.dense, config.hidden_size, config.hidden_size), config.activation),
            projection=Linear(self.discriminator.projection, config.hidden_size, 1),
            squeeze=True,
        )

    @property
    def norm_parts(self) -> set[str]:
        """What the names of LayerNorms end with: theirs alone may be spelled gamma and beta."""
        norms = (self.layer_names.attention_norm, self.layer_names.output_norm, self.masked_lm_names.norm)
        return {name.rpartition(".")[2] for name in (*norms, self.embeddings_norm, self.final_norm) if name}

    @property
    def bare_parts(self) -> set[str]:
        """What the encoder's names start with in files that leave the prefix out."""
        embeddings = (self.word_embeddings, self.position_embeddings, self.token_type_embeddings)
        others = (self.embeddings_norm, self.embeddings_projection, self.final_norm, self.pooler, self.layer)
        names = [name.removeprefix(f"{self.prefix}.") for name in (*embeddings, *others) if name]
        return {name.partition(".")[0] for name in names}

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
        width = 3 * hidden if names.query == names.key == names.value else hidden
        base, adapters = said.rope_theta(number), self._adapters(config, name, number)
        has_norm = self.first_attention_norm or number > 0
        return Layer(
            query=Linear(f"{name}.{names.query}", hidden, width, said.attention_bias),
            key=Linear(f"{name}.{names.key}", hidden, width, said.attention_bias),
            value=Linear(f"{name}.{names.value}", hidden, width, said.attention_bias),
            attention_output=Linear(f"{name}.{names.attention_output}", hidden, hidden, said.attention_bias),
            attention_norm=_norm(f"{name}.{names.attention_norm}", hidden, config) if has_norm else None,
            intermediate=Linear(f"{name}.{names.intermediate}", hidden, inner * (1 + self.gated), said.mlp_bias),
            output=Linear(f"{name}.{names.output}", inner, hidden, said.mlp_bias),
            output_norm=_norm(f"{name}.{names.output_norm}", hidden, config),
            norm_first=self.norm_first,
            attention_adapter=adapters.get("attention"),
            output_adapter=adapters.get("output"),
            gated=self.gated,
            rotary=None if base is None else Rotary(base, self.interleaved, said.rotary_value),
            window=said.window(number),
            farthest=said.max_relative_position,
        )

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


def _norm(name: str, size: int, config: EncoderConfig) -> Norm:
    return Norm(name, size, config.layer_norm_eps, config.layers.norm_bias)


def _table(name: str | None, rows: int | None, size: int) -> Embedding | None:
    return Embedding(name, rows, size) if name and rows else None


# What transformers' class for a task ends with.
CLASS_SUFFIXES = {
    "features": "Model",
    "fill-mask": "ForMaskedLM",
    "replaced-token-detection": "ForPreTraining",
    **LABEL_CLASS_SUFFIXES,
}

NEXT_SENTENCE = "the next-sentence head; no output uses it"
SENTENCE_ORDER = "the sentence-order head; no output uses it"
# transformers' RoFormer has it as a parameter, and makes it again where a file lacks it.
# Why a tensor is ignored that somebody may miss.
DROPPED_HEADS = {NEXT_SENTENCE, SENTENCE_ORDER}

_UNUSED_BUFFERS = {
    "*embeddings.position_ids": "a buffer holding 0, 1, 2, …",
    "*prompt_tuning.base_model_embeddings.weight": "the word embeddings once more, as the adapters library saves them",
}

POSITIONS_TABLE = "a table of sines and cosines that follows from its formula"

BERT = Family(
    class_name="Bert",
    prefix="bert",
    word_embeddings="bert.embeddings.word_embeddings",
    position_embeddings="bert.embeddings.position_embeddings",
    token_type_embeddings="bert.embeddings.token_type_embeddings",
    embeddings_norm="bert.embeddings.LayerNorm",
    layer="bert.encoder.layer.{block}",
    layer_names=LayerNames(
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        intermediate="intermediate.dense",
        output="output.dense",
        output_norm="output.LayerNorm",
        attention_adapters="attention.output.adapters",
        output_adapters="output.adapters",
    ),
    pooler="bert.pooler.dense",
    masked_lm_names=MaskedLMNames(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        untied_decoder="cls.predictions.decoder",
        decoder_bias="cls.predictions.bias",
        decoder_bias_alias="cls.predictions.decoder.bias",
    ),
    ignored={**_UNUSED_BUFFERS, "cls.seq_relationship.*": NEXT_SENTENCE},
)

ROBERTA = Family(
    class_name="Roberta",
    prefix="roberta",
    word_embeddings="roberta.embeddings.word_embeddings",
    position_embeddings="roberta.embeddings.position_embeddings",
    token_type_embeddings="roberta.embeddings.token_type_embeddings",
    embeddings_norm="roberta.embeddings.LayerNorm",
    layer="roberta.encoder.layer.{block}",
    layer_names=BERT.layer_names,
    pooler="roberta.pooler.dense",
    masked_lm_names=MaskedLMNames(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        untied_decoder="lm_head.decoder",
        decoder_bias="lm_head.bias",
        decoder_bias_alias="lm_head.decoder.bias",
        activation="gelu_erf",  # fixed in transformers' RobertaLMHead
    ),
    label_heads={
        **LABEL_HEADS,
        "text-classification": LabelHeadNames(
            over="first_token",
            projection="classifier.out_proj",
            dense="classifier.dense",
            activation="tanh",  # fixed in transformers' RobertaClassificationHead
        ),
    },
    ignored=_UNUSED_BUFFERS,
)

FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "megatron-bert": replace(
        BERT,
        class_name="MegatronBert",
        embeddings_norm=None,
        layer_names=replace(BERT.layer_names, attention_norm="attention.ln", output_norm="ln"),
        norm_first=True,
        final_norm="bert.encoder.ln",
    ),
    "albert": Family(
        class_name="Albert",
        prefix="albert",
        word_embeddings="albert.embeddings.word_embeddings",
        position_embeddings="albert.embeddings.position_embeddings",
        token_type_embeddings="albert.embeddings.token_type_embeddings",
        embeddings_norm="albert.embeddings.LayerNorm",
        embeddings_projection="albert.encoder.embedding_hidden_mapping_in",
        projects_always=True,
        layer="albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}",
        layer_names=LayerNames(
            query="attention.query",
            key="attention.key",
            value="attention.value",
            attention_output="attention.dense",
            attention_norm="attention.LayerNorm",
            intermediate="ffn",
            output="ffn_output",
            output_norm="full_layer_layer_norm",
            attention_adapters="attention.attention_adapters.adapters",
            output_adapters="output_adapters.adapters",
        ),
        swaps_attention=True,
        pooler="albert.pooler",
        masked_lm_names=MaskedLMNames(
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            untied_decoder="predictions.decoder",
            decoder_bias="predictions.bias",
            decoder_bias_alias="predictions.decoder.bias",
        ),
        ignored={**_UNUSED_BUFFERS, "sop_classifier.*": SENTENCE_ORDER},
    ),
    "electra": Family(
        class_name="Electra",
        prefix="electra",
        word_embeddings="electra.embeddings.word_embeddings",
        position_embeddings="electra.embeddings.position_embeddings",
        token_type_embeddings="electra.embeddings.token_type_embeddings",
        embeddings_norm="electra.embeddings.LayerNorm",
        embeddings_projection="electra.embeddings_project",
        layer="electra.encoder.layer.{block}",
        layer_names=BERT.layer_names,
        masked_lm_names=MaskedLMNames(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            untied_decoder="generator_lm_head",
            decoder_bias="generator_lm_head.bias",
            activation="gelu_erf",  # fixed in transformers' ElectraGeneratorPredictions
        ),
        discriminator=DiscriminatorNames(
            dense="discriminator_predictions.dense", projection="discriminator_predictions.dense_prediction"
        ),
        label_heads={
            **LABEL_HEADS,
            "text-classification": LabelHeadNames(
                over="first_token",
                projection="classifier.out_proj",
                dense="classifier.dense",
                activation="gelu_erf",  # fixed in transformers' ElectraClassificationHead
            ),
        },
        ignored=_UNUSED_BUFFERS,
    ),
    "ernie": Family(
        class_name="Ernie",
        prefix="ernie",
        word_embeddings="ernie.embeddings.word_embeddings",
        position_embeddings="ernie.embeddings.position_embeddings",
        token_type_embeddings="ernie.embeddings.token_type_embeddings",
        task_type_embeddings="ernie.embeddings.task_type_embeddings",
        embeddings_norm="ernie.embeddings.LayerNorm",
        layer="ernie.encoder.layer.{block}",
        layer_names=BERT.layer_names,
        pooler="ernie.pooler.dense",
        masked_lm_names=BERT.masked_lm_names,
        ignored=BERT.ignored,
    ),
    "nezha": Family(
        class_name="Nezha",
        prefix="nezha",
        word_embeddings="nezha.embeddings.word_embeddings",
        token_type_embeddings="nezha.embeddings.token_type_embeddings",
        embeddings_norm="nezha.embeddings.LayerNorm",
        layer="nezha.encoder.layer.{block}",
        layer_names=BERT.layer_names,
        pooler="nezha.pooler.dense",
        masked_lm_names=BERT.masked_lm_names,
        ignored={
            **BERT.ignored,
            "*.relative_positions_encoding.positions_encoding": POSITIONS_TABLE,
        },
    ),
    "roberta": ROBERTA,
    "xlm-roberta": replace(ROBERTA, class_name="XLMRoberta"),
    "roformer": Family(
        class_name="RoFormer",
        prefix="roformer",
        word_embeddings="roformer.embeddings.word_embeddings",
        token_type_embeddings="roformer.embeddings.token_type_embeddings",
        embeddings_norm="roformer.embeddings.LayerNorm",
        embeddings_projection="roformer.embeddings_project",
        layer="roformer.encoder.layer.{block}",
        layer_names=replace(BERT.layer_names, attention_adapters=None, output_adapters=None),
        interleaved=True,
        masked_lm_names=BERT.masked_lm_names,
        label_heads={
            **LABEL_HEADS,
            "text-classification": LabelHeadNames(
                over="first_token", projection="classifier.out_proj", dense="classifier.dense"
            ),
        },
        ignored={
            ROFORMER_TABLE: POSITIONS_TABLE,
            "cls.seq_relationship.*": NEXT_SENTENCE,
        },
    ),
    "modernbert": Family(
        class_name="ModernBert",
        prefix="model",
        word_embeddings="model.embeddings.tok_embeddings",
        embeddings_norm="model.embeddings.norm",
        layer="model.layers.{block}",
        layer_names=LayerNames(
            query="attn.Wqkv",
            key="attn.Wqkv",
            value="attn.Wqkv",
            attention_output="attn.Wo",
            attention_norm="attn_norm",
            intermediate="mlp.Wi",
            output="mlp.Wo",
            output_norm="mlp_norm",
        ),
        norm_first=True,
        first_attention_norm=False,
        final_norm="model.final_norm",
        gated=True,
        masked_lm_names=MaskedLMNames(
            dense="head.dense", norm="head.norm", untied_decoder="decoder", decoder_bias="decoder.bias"
        ),
        label_heads={
            task: replace(head, projection="classifier", dense="head.dense", norm="head.norm")
            for task, head in LABEL_HEADS.items()
        },
    ),
}


# BGE-M3's heads over the last hidden states, as FlagEmbedding names them.
SPARSE, MULTI_VECTOR = "sparse_linear", "colbert_linear"


def build_spec(config: EncoderConfig, names: Collection[str]) -> EncoderSpec:
    """The spec of a checkpoint whose tensors have these canonical names.

    Raises InputError where the configuration promises a head of which there is no tensor, where a head
    is there that it does not name, and where its labels contradict themselves.
    """
    spec, hidden = _build_spec(config, names), config.hidden_size
    sparse = Dense(Linear(SPARSE, hidden, 1), "relu")
    vectors = Linear(MULTI_VECTOR, hidden, config.colbert_dim)
    return replace(
        spec,
        token_weights=sparse if {sparse.linear.weight, sparse.linear.bias} & set(names) else None,
        token_vectors=vectors if {vectors.weight, vectors.bias} & set(names) else None,
    )


def _build_spec(config: EncoderConfig, names: Collection[str]) -> EncoderSpec:
    family = FAMILIES[config.model_type]
    has_pooler = family.pooler is not None and any(name.startswith(f"{family.pooler}.") for name in names)
    task = task_of(config.architecture)
    if task and task in family.label_heads:
        head = label_head(family.label_heads[task], task, config)
        _check_presence(config, parameters_of(head), names)
        return replace(family.encoder(config, has_pooler or head.over == "pooler"), task=task, head=head)
    spec = family.encoder(config, has_pooler)
    masked_lm, replaced_token = family.masked_lm(config), family.replaced_token(config)
    if {masked_lm.dense.weight, masked_lm.decoder_bias, masked_lm.norm.weight} & set(names):
        return replace(spec, task="fill-mask", head=masked_lm)
    if replaced_token and {parameter.name for parameter in parameters_of(replaced_token)} & set(names):
        return replace(spec, task="replaced-token-detection", head=replaced_token)
    _check_no_label_head(config, family, names)
    if config.architecture and config.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        _check_presence(config, (*masked_lm.dense.parameters(), *masked_lm.norm.parameters()), names)
    return spec


def _check_presence(config: EncoderConfig, head: Iterable[Parameter], names: Collection[str]) -> None:
    """Raise InputError unless some tensor of this head is there; what else is missing will be told by name."""
    expected = [parameter.name for parameter in head]
    if not set(expected) & set(names):
        raise InputError(
            "checkpoint",
            f"config.json says {config.architecture}, but none of that head's tensors is present "
            f"(expected {expected[0]}, …). For an encoder without a head, set architectures to "
            f"the bare model's class",
        )


def _check_no_label_head(config: EncoderConfig, family: Family, names: Collection[str]) -> None:
    """Raise InputError for a head of labels that `architectures` does not name: its name leaves the task open."""
    classes = [family.class_name + LABEL_CLASS_SUFFIXES[task] for task in family.label_heads]
    for head in family.label_heads.values():
        if f"{head.projection}.weight" in names:
            raise InputError(
                "checkpoint",
                f"{head.projection}.weight belongs to a head that gives labels; expected architectures in config.json "
                f"to say which, {' or '.join(classes)}; found {config.architecture or 'none'}",
            )


def full_spec(config: EncoderConfig) -> EncoderSpec:
    """The spec of a complete checkpoint: with pooler, and the head that `architectures` names (else masked LM)."""
    family = FAMILIES[config.model_type]
    spec = family.encoder(config, has_pooler=True)
    wanted = config.architecture or ""
    task = task_of(wanted)
    if task and task in family.label_heads:
        return replace(spec, task=task, head=label_head(family.label_heads[task], task, config))
    replaced_token = family.replaced_token(config)
    if wanted.endswith("Model"):
        return spec
    if replaced_token and wanted.endswith("ForPreTraining"):
        return replace(spec, task="replaced-token-detection", head=replaced_token)
    return replace(spec, task="fill-mask", head=family.masked_lm(config))
