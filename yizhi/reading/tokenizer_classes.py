"""The tokenizer classes of transformers whose folders are read, and the defaults of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# The special tokens with names of their own, in the order in which transformers adds them.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What BertTokenizer calls them.
BERT_TOKENS = {name: f"[{name.removesuffix('_token').upper()}]" for name in NAMED_TOKENS[2:]}


@dataclass(frozen=True)
class TokenizerClass:
    """How one of transformers' classes reads a folder.

    takes_json: whether it reads `tokenizer.json` as it is; else BERT's tokenizer is built from vocabulary and settings.
    special: special tokens by name, where no file has them. types: whether it gives `token_type_ids` unless
    `model_input_names` says otherwise. rebuilt: whether transformers 5 builds it anew, and takes less from the file.
    cuts_words: whether jieba cuts a text into words first, as RoFormer's does.
    """

    takes_json: bool
    special: Mapping[str, Any] = field(default_factory=dict)
    types: bool = True
    rebuilt: bool = False
    cuts_words: bool = False


def _fairseq(**mask: bool) -> TokenizerClass:
    """RoBERTa's special tokens, as fairseq has them. mask: flags of `<mask>`, which takes the space before it along."""
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    special: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    special["mask_token"] = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, **mask}
    return TokenizerClass(takes_json=True, special=special, types=False, rebuilt=True)


_BERT = TokenizerClass(takes_json=False, special=BERT_TOKENS)
_ROFORMER = TokenizerClass(takes_json=False, special=BERT_TOKENS, cuts_words=True)
_END = {f"{name}_token": "<|endoftext|>" for name in ("eos", "unk", "pad")}
_QWEN = TokenizerClass(takes_json=True, special=_END, types=False, rebuilt=True)
_GENERIC = TokenizerClass(takes_json=True)
CLASSES: Mapping[str, TokenizerClass] = MappingProxyType(
    {
        **{f"{family}Tokenizer{suffix}": _BERT for family in ("Bert", "Electra") for suffix in ("", "Fast")},
        "ErnieTokenizer": _BERT,  # PaddleNLP's name
        **{f"RoFormerTokenizer{suffix}": _ROFORMER for suffix in ("", "Fast")},
        **{f"XLMRobertaTokenizer{suffix}": _fairseq() for suffix in ("", "Fast")},
        **{f"RobertaTokenizer{suffix}": _fairseq(normalized=False) for suffix in ("", "Fast")},
        **{f"Qwen2Tokenizer{suffix}": _QWEN for suffix in ("", "Fast")},
        "PreTrainedTokenizerFast": _GENERIC,
        "TokenizersBackend": _GENERIC,
    }
)
# What AutoTokenizer takes for a model whose folder names no class; BERT's for every other.
_BY_MODEL = {
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "modernbert": "PreTrainedTokenizerFast",
    "roformer": "RoFormerTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}
# Families whose rows need no special token but what fills them up: their bytes are all in the vocabulary.
_UNFRAMED = ("qwen2", "qwen3")


def needed_tokens(model_type: object) -> tuple[str, ...]:
    """The special tokens that the tokenizer of a model must have, by name."""
    return ("pad_token",) if model_type in _UNFRAMED else NAMED_TOKENS[2:]


def class_of_model(model_type: object) -> str:
    """The name of the class for a folder that names none."""
    return _BY_MODEL.get(str(model_type), "BertTokenizer")
