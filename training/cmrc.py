"""CMRC 2018's scores of an answer: exact match, and F1 over the longest common run of units.

After Cui et al. 2019, A Span-Extraction Dataset for Chinese Machine Reading Comprehension (arXiv:1810.07366), and the
evaluation script of https://github.com/ymcui/cmrc2018. A Han character is a unit, and a word of another script is a
unit. Punctuation does not count. The script splits other scripts with NLTK. Here a word is letters and digits with
single points, commas or apostrophes inside.
"""

import re
from collections.abc import Sequence

_PUNCTUATION = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』…")
_UNITS = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+(?:[.,'][^\W\u4e00-\u9fa5]+)*|[^\w\s]")


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 if the answer equals one of these, apart from case, punctuation and outer spaces; else 0."""
    return float(any(_strip(answer) == _strip(truth) for truth in truths))


def f1(answer: str, truths: Sequence[str]) -> float:
    """The best F1 over these answers, 0 … 1. The shared part is the longest common run of units."""
    return max((_f1(units(answer), units(truth)) for truth in truths), default=0.0)


def units(text: str) -> list[str]:
    """Han characters, and words of other scripts; without punctuation, in lower case."""
    return _UNITS.findall("".join(char for char in text.lower() if char not in _PUNCTUATION))


def _f1(answer: list[str], truth: list[str]) -> float:
    shared = _longest_common_run(answer, truth)
    # 2pr / (p + r) with p = shared / |answer| and r = shared / |truth|.
    return 2 * shared / (len(answer) + len(truth)) if shared else 0.0


def _longest_common_run(one: list[str], other: list[str]) -> int:
    longest, before = 0, [0] * (len(other) + 1)
    for item in one:
        row = [0] * (len(other) + 1)
        for index, candidate in enumerate(other):
            if item == candidate:
                row[index + 1] = before[index] + 1
        longest, before = max(longest, *row), row
    return longest


def _strip(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _PUNCTUATION)
