"""tokenizer.json for JavaScript: the ids that Rust's tokenizers give, from @huggingface/tokenizers too."""

from typing import Any

# Beyond 16 bits, the Chinese characters that BERT makes words of their own (Rust's `is_chinese_char`, after Google's
# tokenization.py). JavaScript's normalizer looks at 16 bits at a time, and does not see them.
_RANGES = ((0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F))
RARE_CHINESE = f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]"


def adapt_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json with rare Chinese characters split where BERT's normalizer was to split them.

    It gives the ids that it gave, and in JavaScript too.
    """
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("handle_chinese_chars"):
        return tokenizer
    split = {"type": "Split", "pattern": {"Regex": RARE_CHINESE}, "behavior": "Isolated", "invert": False}
    both = {"type": "Sequence", "pretokenizers": [tokenizer["pre_tokenizer"], split]}
    return {**tokenizer, "pre_tokenizer": both}
