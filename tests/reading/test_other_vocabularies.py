"""SentencePiece models and merges: alone they make the tokenizer, beside tokenizer.json they agree."""

import base64
import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from transformers import RobertaTokenizerFast, XLMRobertaTokenizerFast

from tests.checkpoints import byte_tokenizer, small_config, write_json
from tests.reading.test_other_tokenizers import TEXTS, compare
from tests.reading.tokenizer_folders import make_texts
from yizhi.errors import InputError
from yizhi.reading.auto_tokenizer import check_beside, read_tokenizer
from yizhi.reading.charsmap import find_damage
from yizhi.reading.sentences import CHINESE, ENGLISH
from yizhi.storage.protobuf import fields_of


@pytest.fixture(scope="session")
def model() -> bytes:
    """A SentencePiece model with the real precompiled normaliser, of our own sentences."""
    return train()


def train(**settings) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CHINESE, *ENGLISH] * 3),
        model_writer=written,
        **{"vocab_size": 500, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2, **settings},
    )
    return written.getvalue()


@pytest.fixture
def folder(tmp_path, model):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    write_json(tmp_path / "config.json", {**small_config(), "model_type": "xlm-roberta"})
    return tmp_path


def write_merges(folder: Path) -> None:
    byte_tokenizer().model.save(str(folder))
    write_json(folder / "config.json", {**small_config(), "model_type": "roberta"})


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_tokenizer(folder)
    return list(caught.value.faults)


def test_a_sentencepiece_model_alone(folder):
    compare(folder, [*TEXTS, *make_texts("pieces", 60), *CHINESE[:5], *ENGLISH[:5]])
    tokens = read_tokenizer(folder).tokenizer.encode("Ｈｅｌｌｏ").tokens
    assert "".join(tokens).startswith("<s>▁H")  # its normaliser makes full-width letters narrow


def test_beside_a_tokenizer_json_it_agrees(folder):
    XLMRobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").exists()
    compare(folder, [*TEXTS, *make_texts("json", 40)])
    assert check_beside(folder, read_tokenizer(folder)) == []
    (note,) = read_tokenizer(folder).notes
    assert note.endswith("would build these parts differently: normalizer, pre_tokenizer")


def test_beside_another_tokenizer_json_it_is_refused(folder):
    XLMRobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = saved["model"]["vocab"]
    vocab[10], vocab[11] = vocab[11], vocab[10]
    write_json(folder / "tokenizer.json", saved)
    (fault,) = check_beside(folder, read_tokenizer(folder))
    assert fault == (
        f"sentencepiece.bpe.model: token 10: expected {vocab[10][0]!r}, as tokenizer.json has; found {vocab[11][0]!r}"
    )
    assert check_beside(folder, read_tokenizer(folder), ["*.model"]) == []
    vocab[10], vocab[11] = vocab[11], vocab[10]
    saved["normalizer"] = {"type": "Lowercase"}
    write_json(folder / "tokenizer.json", saved)
    (fault,) = check_beside(folder, read_tokenizer(folder))
    assert fault.startswith("sentencepiece.bpe.model: tokenizer.json gives 'Hello World' the ids [")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "bpe"}, "expected a Unigram model"),
        ({"byte_fallback": True, "vocab_size": 800}, "byte_fallback: "),
        ({"add_dummy_prefix": False}, "expected a space before the first word"),
        ({"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}, "expected <unk>, <s>, </s> first"),
    ],
)
def test_a_model_that_is_not_as_xlm_rs_is_refused(folder, settings, says):
    (folder / "sentencepiece.bpe.model").write_bytes(train(**settings))
    faults = faults_of(folder)
    assert any(fault.startswith(f"sentencepiece.bpe.model: {says}") for fault in faults)
    assert "save_pretrained" in faults[-1]


@pytest.mark.parametrize(
    ("piece", "score", "says"),
    [
        ("<mask>", -1.0, "expected each piece once, and none of the special tokens; found '<mask>' again"),
        ("▁", -1.0, "expected each piece once, and none of the special tokens; found '▁' again"),
        ("q", float("nan"), "expected a finite score of each piece; found another of 'q'"),
    ],
)
def test_pieces_that_tokenizer_json_could_not_hold(folder, model, piece, score, says):
    from sentencepiece import sentencepiece_model_pb2

    changed = sentencepiece_model_pb2.ModelProto.FromString(model)
    changed.pieces.add(piece=piece, score=score)
    (folder / "sentencepiece.bpe.model").write_bytes(changed.SerializeToString())
    assert f"sentencepiece.bpe.model: {says}" in faults_of(folder)


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff", b"\x0a\x03\x0a\x01"])
def test_a_damaged_model(folder, damage):
    (folder / "sentencepiece.bpe.model").write_bytes(damage)
    assert faults_of(folder)[0].startswith("sentencepiece.bpe.model: is not a SentencePiece model: ")


def test_vocab_json_and_merges(tmp_path):
    write_merges(tmp_path)
    compare(tmp_path, [*TEXTS, *make_texts("merges", 40)])
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True})
    compare(tmp_path, TEXTS)
    (tmp_path / "merges.txt").unlink()
    assert faults_of(tmp_path) == ["merges.txt: the file is missing, and so is tokenizer.json"]


def test_merges_beside_a_tokenizer_json(tmp_path):
    write_merges(tmp_path)
    RobertaTokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path)
    compare(tmp_path, TEXTS)
    assert check_beside(tmp_path, read_tokenizer(tmp_path)) == []
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "merges.txt").write_text("\n".join(lines[:-5]) + "\n", encoding="utf-8")
    (fault,) = check_beside(tmp_path, read_tokenizer(tmp_path))
    assert fault.startswith("merges.txt: tokenizer.json gives '北京是中国的首都。' the ids [")


def test_vocab_txt_beside_a_tokenizer_json(make_checkpoint):
    from transformers import BertTokenizerFast

    folder = make_checkpoint()
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    assert check_beside(folder, read_tokenizer(folder)) == []
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    lines[7], lines[8] = lines[8], lines[7]
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert check_beside(folder, read_tokenizer(folder)) == [
        f"vocab.txt: token 7: expected {lines[8]!r}, as tokenizer.json has; found {lines[7]!r}"
    ]
    (folder / "merges.txt").write_text("")
    assert check_beside(folder, read_tokenizer(folder))[0] == "merges.txt: is of BPE; the tokenizer is WordPiece"


# --- the precompiled normaliser, at which a damaged one would end the process ---------------------


def charsmap_of(model: bytes) -> bytes:
    (normalizer,) = fields_of(model)[3]
    return fields_of(normalizer)[2][0]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf"])
def test_published_normalisers_are_whole(rule):
    assert find_damage(charsmap_of(train(normalization_rule_name=rule))) is None


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (b"", "expected a trie of at most 0 B; found 0"),
        (b"\xff\xff\xff\x7f12345", "expected a trie of at most 5 B"),
        (b"\x04\0\0\0\0\0\0\0", "its trie points past its end"),
        (b"\x04\0\0\0\0\0\0\0\xff", "its texts are not UTF-8"),
    ],
)
def test_damaged_normalisers_are_named(folder, damaged, says):
    assert says in find_damage(damaged)
    XLMRobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    saved["normalizer"]["normalizers"][0]["precompiled_charsmap"] = base64.b64encode(damaged).decode()
    write_json(folder / "tokenizer.json", saved)
    (fault,) = faults_of(folder)
    assert fault.startswith("tokenizer.json: normalizer: precompiled_charsmap: ")


def test_no_damage_ends_the_process(model):
    """Bytes changed at random: what is found whole normalizes any text."""
    charsmap, chance = charsmap_of(model), random.Random(0)
    texts = [*TEXTS, *make_texts("damage", 60)]
    whole = 0
    for _ in range(20):
        changed = bytearray(charsmap)
        for _ in range(chance.choice([1, 2, 40])):
            changed[chance.choice([chance.randrange(4, len(changed)), chance.randrange(4, 2000)])] = chance.randrange(
                256
            )
        if find_damage(bytes(changed)) is None:
            whole += 1
            normalizer = tokenizers.normalizers.Precompiled(bytes(changed))
            for text in texts:
                normalizer.normalize_str(text)
    assert whole
