"""Entities in a sequence of BIO, BIOES or plain tags."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

OUTSIDE = "O"
# Other letters for the same places: BMES and BILOU.
_PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
# What tags without a type are tags of, as in seqeval.
_NO_TYPE = "_"


class Chunk(NamedTuple):
    """Tags `begin` … `end` − 1 make one entity of this label."""

    label: str
    begin: int
    end: int


class TagScheme:
    """What each of a tagger's labels means: outside, or a place in an entity of some label.

    If some label begins with `B-` or `I-`, the letter before the hyphen is the place: B begins, I (or M) continues, E
    (or L) ends, S (or U) is alone. If all labels are bare letters, the letters are the same places, with the label `_`.
    Any other label is a plain tag: neighbours with one label are one entity. `O` is outside.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        prefixed = any(label.startswith(("B-", "I-")) for label in labels)
        bare = "B" in labels and all(label in (*_PLACES, OUTSIDE) for label in labels)
        self._parsed: Mapping[str, tuple[str, str]] = {label: _parse(label, prefixed, bare) for label in labels}

    def find_entities(self, tags: Sequence[str]) -> list[Chunk]:
        """Entities in the order of the tags. The tags need not be well-formed.

        An entity begins at B and S. It also begins at an I or E that has no entity of its label to continue. It ends
        after E and S, and before O, B, S and any other label. So every tag but O is in exactly one entity. These are
        the rules of conlleval (CoNLL 2000) and of seqeval's default mode.
        """
        chunks: list[Chunk] = []
        is_open = False
        for index, tag in enumerate(tags):
            place, label = self._parsed[tag]
            if place == OUTSIDE:
                is_open = False
                continue
            if is_open and place in "IE" and chunks[-1].label == label:
                chunks[-1] = chunks[-1]._replace(end=index + 1)
            else:
                chunks.append(Chunk(label, index, index + 1))
            is_open = place in "BI"
        return chunks


def _parse(label: str, prefixed: bool, bare: bool) -> tuple[str, str]:
    """Place and label of an entity."""
    if label == OUTSIDE:
        return OUTSIDE, ""
    if bare:
        return _PLACES[label], _NO_TYPE
    letter, hyphen, rest = label.partition("-")
    if prefixed and hyphen and letter in _PLACES:
        return _PLACES[letter], rest or _NO_TYPE
    return "I", label
