"""tokenizer.json for JavaScript: the ids that Rust's tokenizers give, from @huggingface/tokenizers too."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from yizhi.parity.texts import TextCase
from yizhi.runtimes.pieces import pattern_of_chinese

# JavaScript's normalizer looks at 16 bits at a time, and does not see the Chinese characters beyond.
RARE_CHINESE = pattern_of_chinese(least=0x10000)


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
