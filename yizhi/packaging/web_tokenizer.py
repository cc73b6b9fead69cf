"""tokenizer.json for JavaScript: @huggingface/tokenizers then gives the ids of Rust's tokenizers."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from yizhi.parity.texts import TextCase
from yizhi.runtimes.pieces import pattern_of_chinese

# JavaScript's normalizer looks at 16 bits at a time, and does not see the Chinese characters beyond.
RARE_CHINESE = pattern_of_chinese(least=0x10000)


def adapt_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with rare Chinese characters split explicitly, as BERT's normalizer splits them.

    The ids stay the same, and JavaScript gives them, too.
    """
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not any(step.get("type") == "BertNormalizer" and step.get("handle_chinese_chars") for step in steps):
        return tokenizer
    split = {"type": "Split", "pattern": {"Regex": RARE_CHINESE}, "behavior": "Isolated", "invert": False}
    before = [tokenizer["pre_tokenizer"]] if tokenizer.get("pre_tokenizer") else []
    return {**tokenizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, split]}}


def find_wrong_texts(tokenizer: dict[str, Any], cases: Sequence[TextCase]) -> list[str]:
    """The texts with other ids than the checkpoint's own tokenizer gives."""
    adapted = Tokenizer.from_str(json.dumps(tokenizer))
    return [case.text for case in cases if tuple(adapted.encode(case.text).ids) != case.ids]
