"""The embedded default: a random checkpoint of a given shape, the same bytes on every machine.

Every tensor is random and asymmetric, so that no swapped, dropped or transposed parameter goes
unseen. A few channels are far larger than the rest, as in trained encoders (Dettmers et al. 2022,
arXiv:2208.07339), so that int8 is tried on what makes it hard.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.model.architectures import full_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import EMBEDDING, KERNEL, NORM_OFFSET, NORM_SCALE, VECTOR_BIAS, EncoderSpec, Parameter
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.tokenizer_files import SPECIAL_TOKENS
from yizhi.storage.folders import new_folder
from yizhi.storage.json_files import to_json

# The shape of bert-base-chinese.
DEFAULT_CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "vocab_size": 21128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
SPREAD = {EMBEDDING: 0.04, KERNEL: 0.04, VECTOR_BIAS: 0.1, NORM_SCALE: 0.1, NORM_OFFSET: 0.1}
CENTRE = {NORM_SCALE: 0.85}
OUTLIER_CHANNELS = 3
OUTLIER_SIZE = {NORM_SCALE: 2.0, NORM_OFFSET: 4.0}
# A shared layer's outliers feed themselves: at full size they reached 35 in a 312-wide ALBERT, which left the other
# channels so few of int8's steps that its cosine fell to 0.9935. At half they reach 14, and int8 is still tried.
SHARED_OUTLIERS = 0.5
# What training starts from: BERT's own initialisation (Devlin et al. 2019, `initializer_range`).
UNTRAINED_SPREAD = {EMBEDDING: 0.02, KERNEL: 0.02}
UNTRAINED_CENTRE = {NORM_SCALE: 1.0}


def synthesize(
    folder: Path,
    config: dict[str, object],
    seed: int = 0,
    vocab: list[str] | None = None,
    untrained: bool = False,
) -> None:
    """Write a random checkpoint of this configuration, with pooler and the family's usual head.

    vocab: its entries; `make_vocab`'s if None. untrained: with the weights that training starts from, and not with
    trained weights' spread and outliers.
    Raises InputError for an unsupported configuration, a vocabulary of another size, or one too small for the
    special tokens.
    """
    checked = EncoderConfig.from_dict(config)
    if checked.vocab_size < len(SPECIAL_TOKENS):
        raise InputError("config", f"vocab_size: expected at least {len(SPECIAL_TOKENS)}; found {checked.vocab_size}")
    if vocab is not None and len(vocab) != checked.vocab_size:
        raise InputError("config", f"vocab_size: expected {len(vocab)}, the vocabulary's; found {checked.vocab_size}")
    spec = full_spec(checked)
    with new_folder(folder) as temporary:
        (temporary / "config.json").write_text(to_json(config), encoding="utf-8")
        entries = make_vocab(checked.vocab_size) if vocab is None else vocab
        if vocab is None:
            entries.insert(checked.pad_token_id, entries.pop(0))  # [PAD]
        (temporary / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
        with open(temporary / "model.safetensors", "wb") as file:
            header = {parameter.name: ("F32", parameter.shape) for parameter in spec.parameters()}
            make = _untrained if untrained else _values
            write_safetensors(file, header, (make(p, seed, spec).data.cast("B") for p in spec.parameters()))


def make_vocab(size: int) -> list[str]:
    """Distinct entries: special tokens where BERT has them, ASCII, `##` pieces, punctuation, then Han characters.

    What is left of a vocabulary as large as XLM-R's are Han characters as `##` pieces, and names that no text reaches.
    """
    ascii_characters = [chr(code) for code in range(33, 127)]
    pieces = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    punctuation = list("，。！？、；：“”‘’（）《》【】…—·￥")
    unused = [f"[unused{number}]" for number in range(1, 100)]
    head = ["[PAD]", *unused, *SPECIAL_TOKENS[1:]] if size > 400 else list(SPECIAL_TOKENS)
    vocab = [*head, *ascii_characters, *pieces, *punctuation]
    # CJK Unified Ideographs, then Extension A: more than 27,000 characters.
    han = [*range(0x4E00, 0xA000), *range(0x3400, 0x4DC0), *range(0x20000, 0x2A6E0)]
    characters = [chr(code) for code in han]
    vocab += [*characters, *(f"##{character}" for character in characters)] if len(vocab) < size else []
    vocab += [f"[unused{number}]" for number in range(100, 100 + max(0, size - len(vocab)))]
    return vocab[:size]


def _values(parameter: Parameter, seed: int, spec: EncoderSpec) -> NDArray[np.float32]:
    """Float32 values in the parameter's shape, spread as trained ones are, with outlier channels."""
    spread = SPREAD[parameter.kind]
    if parameter.kind == KERNEL:
        # As wide at every width as it is at 768: narrower layers would else drown in their residuals.
        spread *= np.sqrt(768 / spec.config.hidden_size)
    values = _near_normal(parameter, seed, spread)
    values += np.float32(CENTRE.get(parameter.kind, 0.0))
    if parameter.kind in OUTLIER_SIZE:
        # The same channels in every layer, as trained encoders have them.
        count = len(values)
        channels = [count * (2 * number + 1) // (2 * OUTLIER_CHANNELS) for number in range(OUTLIER_CHANNELS)]
        shares_layers = len(set(spec.layers)) < len(spec.layers)
        size = np.float32(OUTLIER_SIZE[parameter.kind] * (SHARED_OUTLIERS if shares_layers else 1.0))
        values[channels] *= size
        values[channels] += size
    return values.reshape(parameter.shape)


def _untrained(parameter: Parameter, seed: int, spec: EncoderSpec) -> NDArray[np.float32]:
    values = _near_normal(parameter, seed, UNTRAINED_SPREAD.get(parameter.kind, 0.0))
    return (values + np.float32(UNTRAINED_CENTRE.get(parameter.kind, 0.0))).reshape(parameter.shape)


def _near_normal(parameter: Parameter, seed: int, spread: float) -> NDArray[np.float32]:
    """One value for each element, around 0 with this standard deviation, from integers and exact scaling.

    Four random bytes are summed per value (Irwin–Hall), which no maths library can round differently.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{parameter.name}".encode()).digest()[:16], "little")
    count = int(np.prod(parameter.shape))
    raw = np.random.Philox(key=key).random_raw(-(-count // 2)).view("<u4")[:count]
    pairs = (raw & 0x00FF00FF) + (raw >> 8 & 0x00FF00FF)
    sums = (pairs & 0xFFFF) + (pairs >> 16)
    deviation = np.float32(spread / np.sqrt(4 * (256**2 - 1) / 12))
    return (sums.astype(np.float32) - np.float32(510)) * deviation
