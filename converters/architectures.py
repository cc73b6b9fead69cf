"""The families of encoders: how each one names its tensors. One entry of FAMILIES per `model_type`.

To add a family, write its encoder and head functions and its entry; docs/adding-an-architecture.md
walks through it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from converters.config import EncoderConfig
from converters.errors import InputError
from converters.spec import Embedding, EncoderSpec, Layer, Linear, LinearHead, MaskedLMHead, Norm


@dataclass(frozen=True)
class Family:
    """How one `model_type` names its tensors.

    class_name: what transformers' classes of this family begin with.
    prefix: what the encoder's names start with; files saved from the bare encoder leave it out.
    encoder: builds the headless spec, told whether the file has a pooler.
    masked_lm: builds the MLM head, told the decoder's name; None where the family has none.
    replaced_token: builds a discriminator's head.
    untied_decoder, decoder_bias_alias: names that only some files use for the decoder.
    pooler: the pooler's name, or None.
    ignored: name patterns (fnmatch) that may be present and are not used, each with the reason.
    """

    class_name: str
    prefix: str
    encoder: Callable[[EncoderConfig, bool], EncoderSpec]
    masked_lm: Callable[[EncoderConfig, str], MaskedLMHead]
    untied_decoder: str
    decoder_bias_alias: str | None
    pooler: str | None
    ignored: dict[str, str]
    replaced_token: Callable[[EncoderConfig], LinearHead] | None = None


def _embeddings(config: EncoderConfig, prefix: str) -> dict[str, Embedding]:
    width = config.embedding_size
    rows = {
        "word_embeddings": config.vocab_size,
        "position_embeddings": config.max_position_embeddings,
        "token_type_embeddings": config.type_vocab_size,
    }
    return {role: Embedding(f"{prefix}.embeddings.{role}", count, width) for role, count in rows.items()}


def _bert_layer(config: EncoderConfig, name: str, norm_first: bool = False) -> Layer:
    hidden, inner = config.hidden_size, config.intermediate_size
    norms = ("attention.ln", "ln") if norm_first else ("attention.output.LayerNorm", "output.LayerNorm")
    return Layer(
        query=Linear(f"{name}.attention.self.query", hidden, hidden),
        key=Linear(f"{name}.attention.self.key", hidden, hidden),
        value=Linear(f"{name}.attention.self.value", hidden, hidden),
        attention_output=Linear(f"{name}.attention.output.dense", hidden, hidden),
        attention_norm=Norm(f"{name}.{norms[0]}", hidden),
        intermediate=Linear(f"{name}.intermediate.dense", hidden, inner),
        output=Linear(f"{name}.output.dense", inner, hidden),
        output_norm=Norm(f"{name}.{norms[1]}", hidden),
        norm_first=norm_first,
    )


def _bert_encoder(config: EncoderConfig, has_pooler: bool, norm_first: bool = False) -> EncoderSpec:
    hidden = config.hidden_size
    return EncoderSpec(
        config=config,
        task="features",
        **_embeddings(config, "bert"),
        embeddings_norm=None if norm_first else Norm("bert.embeddings.LayerNorm", hidden),
        embeddings_projection=None,
        blocks=tuple(
            (_bert_layer(config, f"bert.encoder.layer.{index}", norm_first),)
            for index in range(config.num_hidden_layers)
        ),
        final_norm=Norm("bert.encoder.ln", hidden) if norm_first else None,
        pooler=Linear("bert.pooler.dense", hidden, hidden) if has_pooler else None,
        head=None,
    )


def _megatron_bert_encoder(config: EncoderConfig, has_pooler: bool) -> EncoderSpec:
    return _bert_encoder(config, has_pooler, norm_first=True)


def _bert_masked_lm(config: EncoderConfig, decoder: str) -> MaskedLMHead:
    hidden = config.hidden_size
    return MaskedLMHead(
        dense=Linear("cls.predictions.transform.dense", hidden, hidden),
        activation=config.activation,
        norm=Norm("cls.predictions.transform.LayerNorm", hidden),
        decoder=decoder,
        decoder_bias="cls.predictions.bias",
        vocab_size=config.vocab_size,
    )


def _albert_encoder(config: EncoderConfig, has_pooler: bool) -> EncoderSpec:
    hidden, inner = config.hidden_size, config.intermediate_size

    def layer(group: int, index: int) -> Layer:
        name = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{index}"
        return Layer(
            query=Linear(f"{name}.attention.query", hidden, hidden),
            key=Linear(f"{name}.attention.key", hidden, hidden),
            value=Linear(f"{name}.attention.value", hidden, hidden),
            attention_output=Linear(f"{name}.attention.dense", hidden, hidden),
            attention_norm=Norm(f"{name}.attention.LayerNorm", hidden),
            intermediate=Linear(f"{name}.ffn", hidden, inner),
            output=Linear(f"{name}.ffn_output", inner, hidden),
            output_norm=Norm(f"{name}.full_layer_layer_norm", hidden),
        )

    groups = [tuple(layer(g, i) for i in range(config.inner_group_num)) for g in range(config.num_hidden_groups)]
    return EncoderSpec(
        config=config,
        task="features",
        **_embeddings(config, "albert"),
        embeddings_norm=Norm("albert.embeddings.LayerNorm", config.embedding_size),
        embeddings_projection=Linear("albert.encoder.embedding_hidden_mapping_in", config.embedding_size, hidden),
        # Layer l belongs to group floor(l · groups / layers), as in transformers' AlbertTransformer.
        blocks=tuple(
            groups[int(index / (config.num_hidden_layers / config.num_hidden_groups))]
            for index in range(config.num_hidden_layers)
        ),
        final_norm=None,
        pooler=Linear("albert.pooler", hidden, hidden) if has_pooler else None,
        head=None,
    )


def _albert_masked_lm(config: EncoderConfig, decoder: str) -> MaskedLMHead:
    return MaskedLMHead(
        dense=Linear("predictions.dense", config.hidden_size, config.embedding_size),
        activation=config.activation,
        norm=Norm("predictions.LayerNorm", config.embedding_size),
        decoder=decoder,
        decoder_bias="predictions.bias",
        vocab_size=config.vocab_size,
    )


def _electra_encoder(config: EncoderConfig, has_pooler: bool) -> EncoderSpec:
    width, hidden = config.embedding_size, config.hidden_size
    return EncoderSpec(
        config=config,
        task="features",
        **_embeddings(config, "electra"),
        embeddings_norm=Norm("electra.embeddings.LayerNorm", width),
        embeddings_projection=Linear("electra.embeddings_project", width, hidden) if width != hidden else None,
        blocks=tuple(
            (_bert_layer(config, f"electra.encoder.layer.{index}"),) for index in range(config.num_hidden_layers)
        ),
        final_norm=None,
        pooler=None,
        head=None,
    )


def _electra_masked_lm(config: EncoderConfig, decoder: str) -> MaskedLMHead:
    return MaskedLMHead(
        dense=Linear("generator_predictions.dense", config.hidden_size, config.embedding_size),
        activation="gelu_erf",  # transformers' ElectraGeneratorPredictions fixes it, whatever hidden_act says
        norm=Norm("generator_predictions.LayerNorm", config.embedding_size),
        decoder=decoder,
        decoder_bias="generator_lm_head.bias",
        vocab_size=config.vocab_size,
    )


def _electra_replaced_token(config: EncoderConfig) -> LinearHead:
    return LinearHead(
        over="tokens",
        dense=Linear("discriminator_predictions.dense", config.hidden_size, config.hidden_size),
        activation=config.activation,
        projection=Linear("discriminator_predictions.dense_prediction", config.hidden_size, 1),
        squeeze=True,
    )


# What transformers' class for a task ends with.
CLASS_SUFFIXES = {
    "features": "Model",
    "fill-mask": "ForMaskedLM",
    "replaced-token-detection": "ForPreTraining",
}

_POSITION_IDS = {"*embeddings.position_ids": "a buffer holding 0, 1, 2, …"}
_BERT_IGNORED = {**_POSITION_IDS, "cls.seq_relationship.*": "the next-sentence head; no output uses it"}

FAMILIES: dict[str, Family] = {
    "bert": Family(
        class_name="Bert",
        prefix="bert",
        encoder=_bert_encoder,
        masked_lm=_bert_masked_lm,
        untied_decoder="cls.predictions.decoder.weight",
        decoder_bias_alias="cls.predictions.decoder.bias",
        pooler="bert.pooler.dense",
        ignored=_BERT_IGNORED,
    ),
    "megatron-bert": Family(
        class_name="MegatronBert",
        prefix="bert",
        encoder=_megatron_bert_encoder,
        masked_lm=_bert_masked_lm,
        untied_decoder="cls.predictions.decoder.weight",
        decoder_bias_alias="cls.predictions.decoder.bias",
        pooler="bert.pooler.dense",
        ignored=_BERT_IGNORED,
    ),
    "albert": Family(
        class_name="Albert",
        prefix="albert",
        encoder=_albert_encoder,
        masked_lm=_albert_masked_lm,
        untied_decoder="predictions.decoder.weight",
        decoder_bias_alias="predictions.decoder.bias",
        pooler="albert.pooler",
        ignored={**_POSITION_IDS, "sop_classifier.*": "the sentence-order head; no output uses it"},
    ),
    "electra": Family(
        class_name="Electra",
        prefix="electra",
        encoder=_electra_encoder,
        masked_lm=_electra_masked_lm,
        untied_decoder="generator_lm_head.weight",
        decoder_bias_alias=None,
        pooler=None,
        ignored=_POSITION_IDS,
        replaced_token=_electra_replaced_token,
    ),
}


def build_spec(config: EncoderConfig, names: Collection[str]) -> EncoderSpec:
    """The spec of a checkpoint whose tensors have these canonical names.

    Raises InputError where the names do not say which head the checkpoint has.
    """
    family = FAMILIES[config.model_type]
    has_pooler = family.pooler is not None and any(name.startswith(family.pooler + ".") for name in names)
    spec = family.encoder(config, has_pooler)

    tied = config.tie_word_embeddings
    masked_lm = family.masked_lm(config, spec.word_embeddings.weight if tied else family.untied_decoder)
    if {masked_lm.dense.weight, masked_lm.decoder_bias, masked_lm.norm.weight} & set(names):
        return replace(spec, task="fill-mask", head=masked_lm)
    if family.replaced_token and any(name.startswith("discriminator_predictions.") for name in names):
        return replace(spec, task="replaced-token-detection", head=family.replaced_token(config))
    if config.architecture and config.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        raise InputError(
            "checkpoint",
            f"config.json says {config.architecture}, but none of that head's tensors is present "
            f"(expected {masked_lm.dense.weight}, …). For an encoder without a head, set architectures to "
            f"the bare model's class",
        )
    return spec


def default_names(config: EncoderConfig) -> set[str]:
    """The names in a full checkpoint of this family: pooler, and an MLM head unless it says it is a discriminator."""
    family = FAMILIES[config.model_type]
    spec = family.encoder(config, family.pooler is not None)
    names = {parameter.name for parameter in spec.parameters()}
    if config.architecture and config.architecture.endswith("Model"):
        return names
    if family.replaced_token and config.architecture and config.architecture.endswith("ForPreTraining"):
        head: MaskedLMHead | LinearHead = family.replaced_token(config)
    else:
        decoder = spec.word_embeddings.weight if config.tie_word_embeddings else family.untied_decoder
        head = family.masked_lm(config, decoder)
    return names | {parameter.name for parameter in replace(spec, head=head).parameters()}
