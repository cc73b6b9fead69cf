"""tokenizer.json for JavaScript: the ids that Rust's tokenizers give, from @huggingface/tokenizers too."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from yizhi.parity.texts import TextCase

# Beyond 16 bits, the Chinese characters that BERT makes words of their own (Rust's `is_chinese_char`, after Google's
# tokenization.py). JavaScript's normalizer looks at 16 bits at a time, and does not see them.
_RANGES = ((0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F))
RARE_CHINESE = f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]"


def adapt_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json with rare Chinese characters split where BERT's normalizer was to split them.

    It gives the ids that it gave, and in JavaScript too.
    """
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not any(step.get("type") == "BertNormalizer" and step.get("handle_chinese_chars") for step in steps):
        return tokenizer
    split = {"type": "Split", "pattern": {"Regex": RARE_CHINESE}, "behavior": "Isolated", "invert": False}
    before = [tokenizer["pre_tokenizer"]] if tokenizer.get("pre_tokenizer") else []
    return {**tokenizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, split]}}


def find_wrong_texts(tokenizer: dict[str, Any], cases: Sequence[TextCase]) -> list[str]:
    """The texts that it gives other ids for than the checkpoint's own tokenizer."""
    adapted = Tokenizer.from_str(json.dumps(tokenizer))
    return [case.text for case in cases if tuple(adapted.encode(case.text).ids) != case.ids]
