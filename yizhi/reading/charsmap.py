"""SentencePiece's precompiled normaliser, checked: the tokenizers library stops the process at a damaged one.

The format is that of sentencepiece's `normalizer.cc`: the size of a trie in bytes, uint32, little-endian; the trie, a
double array of darts-clone; and what its leaves point to, texts in UTF-8 that end with a zero byte.
"""

import numpy as np
from numpy.typing import NDArray

_SIZE = 4
_CHARACTERS = np.arange(1, 256)


def find_damage(charsmap: bytes) -> str | None:
    """The fault of a damaged normaliser, whose trie or texts would be read past their end; None if it is sound."""
    size = int.from_bytes(charsmap[:_SIZE], "little")
    if len(charsmap) < _SIZE or size % 4 or not 0 < size <= len(charsmap) - _SIZE:
        return f"precompiled_charsmap: expected a trie of at most {max(len(charsmap) - _SIZE, 0)} B; found {size}"
    units = np.frombuffer(charsmap[_SIZE : _SIZE + size], "<u4").astype(np.int64)
    texts = charsmap[_SIZE + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        return "precompiled_charsmap: its texts are not UTF-8"
    values = _find_values(units)
    if values is None:
        return "precompiled_charsmap: its trie points past its end"
    begins = np.frombuffer(texts + b"\0", np.uint8)[np.minimum(values, len(texts))]
    if (values > len(texts)).any() or ((begins & 0xC0) == 0x80).any():
        return "precompiled_charsmap: its trie points past its texts, or into a character"
    return None


def _find_values(units: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The values of all leaves that a text can reach; None where a unit would be looked for past the end."""
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    labels, has_leaf = units & ((1 << 31) | 0xFF), ((units >> 8) & 1).astype(bool)
    seen = np.zeros(len(units), bool)
    nodes, leaves = offsets[:1], []
    while len(nodes):
        children = nodes[:, None] ^ _CHARACTERS
        if children.max() >= len(units):
            return None
        children = np.unique(children[labels[children] == _CHARACTERS])
        children = children[~seen[children]]
        seen[children] = True
        nodes = children ^ offsets[children]
        ends = nodes[has_leaf[children]]
        if len(ends) and ends.max() >= len(units):
            return None
        leaves.append(units[ends] & 0x7FFFFFFF)
    return np.concatenate([np.empty(0, np.int64), *leaves])
