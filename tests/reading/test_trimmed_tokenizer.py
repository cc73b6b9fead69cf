"""Which tokens must stay for a text to be cut as before, for each kind of tokenizer."""

import random

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from tests.checkpoints import TOKENIZERS, VOCAB, unigram_tokenizer, write_json, write_tokenizer
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.trimmed_tokenizer import Usage, choose_tokens, cut, trim_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def trim(text: TextTokenizer, lines: list[str], min_count: int = 1) -> tuple[TextTokenizer, np.ndarray]:
    usage = Usage(text)
    usage.add(lines)
    kept = choose_tokens(usage, min_count)
    return trim_tokenizer(text, kept), kept


@pytest.fixture
def read_unigram(tmp_path):
    """XLM-R's tokenizer with these pieces and their scores."""

    def read(pieces: dict[str, float]) -> TextTokenizer:
        parts = unigram_tokenizer()
        scored = [*((token, 0.0) for token in SPECIAL[:4]), *pieces.items(), (SPECIAL[4], 0.0)]
        made = tokenizers.Tokenizer(models.Unigram(scored, 3, byte_fallback=False))
        made.pre_tokenizer, made.decoder, made.post_processor = parts.pre_tokenizer, parts.decoder, parts.post_processor
        made.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
        write_tokenizer(tmp_path, made, "XLMRobertaTokenizer")
        return read_tokenizer(tmp_path)

    return read


@pytest.fixture
def read_wordpiece(tmp_path):
    """BERT's tokenizer with these pieces."""

    def read(pieces: list[str]) -> TextTokenizer:
        (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB[:5], *pieces]), encoding="utf-8")
        return read_tokenizer(tmp_path)

    return read


def test_the_lowest_score_stays_since_it_prices_the_unknown(read_unigram):
    """`a bx c` costs 41. Without `zz`, an unknown `x` would cost 30 and not 110, and `ab <unk> c` 32."""
    text = read_unigram({"▁": -1.0, "a": -20.0, "bx": -20.0, "c": -1.0, "ab": -1.0, "zz": -100.0})
    trimmed, _ = trim(text, ["abxc", "ab"])
    assert trimmed.tokenizer.encode("abxc", add_special_tokens=False).tokens == ["▁", "a", "bx", "c"]
    assert "zz" in trimmed.vocab


def test_what_a_token_was_joined_from_stays(tmp_path):
    made, kind = TOKENIZERS["roberta"]
    write_tokenizer(tmp_path, made(), kind)
    text = read_tokenizer(tmp_path)
    trimmed, kept = trim(text, ["hello"])
    assert len(kept) < len(text.vocab)
    for line in ("hello", "shell"):  # of bytes, which all stay
        rows = cut(text, [line])[0], cut(trimmed, [line])[0]
        assert text.tokenizer.decode(rows[0]) == trimmed.tokenizer.decode(rows[1]) == line
    assert kept[cut(trimmed, ["hello"])[0]].tolist() == cut(text, ["hello"])[0]


def test_characters_inside_words_stay_where_they_were(read_wordpiece):
    """Chinese characters stand apart: what would continue a word with them is not kept."""
    vocab = [*VOCAB[:5], "北", "##北", "ab", "a", "b", "##a", "##b"]
    trimmed, _ = trim(read_wordpiece(vocab[5:]), ["北北 ab"])
    assert trimmed.vocab == [*vocab[:6], "ab", "a", "b", "##b"]


@pytest.mark.parametrize("seed", range(60))
def test_random_vocabularies_and_texts(seed, read_unigram, read_wordpiece):
    """A text is cut as before, whatever the vocabulary, where none of its tokens leaves."""
    draw = random.Random(seed)

    def words(count: int) -> set[str]:
        return {"".join(draw.choices("abcd", k=draw.randint(1, 4))) for _ in range(count)}

    lines = ["".join(draw.choices("abcde ", k=draw.randint(1, 14))) for _ in range(6)]
    if seed % 2:
        text = read_unigram({piece: -float(draw.randint(1, 30)) for piece in sorted({"▁", *words(25)})})
    else:
        text = read_wordpiece(sorted({*words(15), *(f"##{word}" for word in words(15))}))
    trimmed, kept = trim(text, lines)
    assert [kept[row].tolist() for row in cut(trimmed, lines)] == cut(text, lines)


@pytest.mark.parametrize(
    "model",
    [
        models.Unigram([("<pad>", 0.0), ("?", 0.0), ("a", -2.0), ("b", -1.0)], 1, byte_fallback=False),
        models.BPE({"<pad>": 0, "?": 1, "a": 2, "b": 3}, [], unk_token="?"),
    ],
    ids=["unigram", "bpe"],
)
def test_the_unknown_piece_stays_though_no_file_names_it(model, tmp_path):
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens([tokenizers.AddedToken("<pad>", special=True)])
    write_tokenizer(tmp_path, made, "PreTrainedTokenizerFast")
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"})
    write_json(tmp_path / "config.json", {"model_type": "qwen2"})  # whose files name no unknown token
    trimmed, kept = trim(read_tokenizer(tmp_path), ["a"])
    assert kept.tolist() == [0, 1, 2]
    assert cut(trimmed, ["ax"]) == [[2, 1]]
