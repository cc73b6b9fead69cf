"""Qwen's tokenizer: bytes, no token before a text, and after it the end of text or nothing."""

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, Qwen2TokenizerFast

from tests.checkpoints import byte_tokenizer, small_config, write_json, write_variant
from tests.reading.tokenizer_folders import make_texts
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.parity.cases import find_wrong_cases, make_cases
from yizhi.reading.auto_tokenizer import check_beside, read_tokenizer
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_files import NO_TOKEN
from yizhi.runtimes.tokenization import Tokenizer

END = "<|endoftext|>"
# Of tokenization_qwen2.py.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = ["北京是中国的首都。", "hello  world ing 2026", " x ", f"a{END}b<|im_start|>", "e\u0301\n\n你好", "", "👨‍👩‍👧"]


def qwen_tokenizer(framed: bool) -> tokenizers.Tokenizer:
    """As Qwen3-Embedding's, or without its frame as Qwen3's: over the bytes and merges of another."""
    model = json.loads(byte_tokenizer().to_str())["model"]
    drop = [token for token in model["vocab"] if token.startswith("<")]
    kept = [token for token in model["vocab"] if token not in drop]
    merges = [tuple(pair) for pair in model["merges"]]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({token: id for id, token in enumerate(kept)}, merges))
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    special = [tokenizers.AddedToken(name, special=True, normalized=False) for name in (END, "<|im_start|>")]
    made.add_special_tokens(special)
    if framed:
        made.post_processor = tokenizers.processors.Sequence(
            [
                tokenizers.processors.ByteLevel(add_prefix_space=False, trim_offsets=False),
                tokenizers.processors.TemplateProcessing(
                    single=f"$A {END}",
                    pair=f"$A {END} $B {END}",
                    special_tokens=[(END, made.token_to_id(END))],
                ),
            ]
        )
    return made


@pytest.fixture(params=[True, False], ids=["framed", "bare"])
def folder(request, tmp_path):
    made = qwen_tokenizer(request.param)
    size = made.get_vocab_size()
    config = {"vocab_size": size, "pad_token_id": made.token_to_id(END)}
    folder = write_variant(tmp_path / "source", "qwen3-no-head", config=config)
    (folder / "vocab.txt").unlink()
    Qwen2TokenizerFast(tokenizer_object=made, pad_token=END, eos_token=END, unk_token=None).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    made.save(str(folder / "tokenizer.json"))  # the class would build its own frame
    return folder


def compare(folder: Path) -> None:
    ours, theirs = Tokenizer(read_tokenizer(folder), 1000), AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, *make_texts("qwen", 60)]:
        (row,) = ours.tokenize([text])
        expected = theirs(text, return_offsets_mapping=True)
        assert row.ids.tolist() == expected["input_ids"], text
        assert list(map(tuple, row.offsets.tolist())) == expected["offset_mapping"], text
    (row,) = ours.tokenize([("北京", "中国")])
    assert row.ids.tolist() == theirs("北京", "中国")["input_ids"]


def test_ids_are_those_of_transformers_also_of_an_artifact(folder, tmp_path):
    compare(folder)
    with Checkpoint.open(folder) as checkpoint:
        files = checkpoint.tokenizer_files()
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name, text in files.items():
        (artifact / name).write_text(text)
    compare(artifact)


def test_rows_begin_with_their_text(folder):
    text = read_tokenizer(folder)
    framed = text.frame.end == 1
    end = text.tokenizer.token_to_id(END)
    assert (text.cls_id, text.mask_id, text.sep_id) == (NO_TOKEN, NO_TOKEN, end if framed else NO_TOKEN)
    tokenizer = Tokenizer(text, 12)
    (row,) = tokenizer.tokenize(["北京是中国"])
    assert row.parts == (slice(0, len(row.ids) - framed),)
    (cut,) = tokenizer.fit(tokenizer.tokenize(["北京是中国的首都"])[0], "truncate")
    assert len(cut.ids) == 12
    assert (cut.ids[-1] == end) == framed
    words, begins = tokenizer.tokenize_words(["北京", "x"])
    assert (begins[0], words.parts) == (0, (slice(0, len(words.ids) - framed),))
    assert tokenizer.put_mask("a [MASK] b") == "a [MASK] b"


def test_a_text_without_tokens_is_refused_alone_and_among_others(folder):
    """Padding would give it a vector that depends on its neighbours."""
    text = read_tokenizer(folder)
    tokenizer = Tokenizer(text, 12)
    (row,) = tokenizer.tokenize([""])
    if text.frame.end:
        assert tokenizer.fit(row) == [row]
        assert tokenizer.encode(["", "x"]).inputs.attention_mask.tolist() == [[1, 0], [1, 1]]
        return
    with pytest.raises(InputError, match="is empty, and has no tokens"):
        tokenizer.fit(row, "truncate")
    with pytest.raises(InputError, match="text 2 of 2: is empty, and has no tokens"):
        tokenizer.encode(["x", ""])


def test_cases_have_no_tokens_that_the_tokenizer_has_not(folder):
    with Checkpoint.open(folder) as checkpoint:
        cases = make_cases(checkpoint)
    assert "masks" not in {case.name for case in cases}
    assert all(case.inputs.input_ids.min() >= 0 for case in cases)
    (shortest,) = (case for case in cases if case.name == "length-1")
    assert shortest.inputs.input_ids.shape == (1, 1)


def test_another_family_needs_its_special_tokens(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**small_config("modernbert"), "vocab_size": config["vocab_size"]})
    with pytest.raises(InputError, match="cls_token: missing"):
        read_tokenizer(folder)


def test_a_vocabulary_beside_it_must_agree(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in model["merges"]))
    text = read_tokenizer(folder)
    assert not check_beside(folder, text)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (fault,) = check_beside(folder, text)
    assert fault.startswith("merges.txt: tokenizer.json gives '")


def test_a_vocabulary_can_be_trimmed(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("北京是中国的首都。\nhello world\n")
    assert main(["trim-vocab", str(folder), "--text", str(text), "--out", str(tmp_path / "less")]) == 0
    before, after = read_tokenizer(folder), read_tokenizer(tmp_path / "less")
    assert after.frame.end == before.frame.end
    for line in text.read_text().splitlines():
        assert after.tokenizer.encode(line).tokens == before.tokenizer.encode(line).tokens
    Checkpoint.open(tmp_path / "less").close()


def test_an_artifact_names_the_tokenizers_padding(folder):
    """Else its cases are padded with the family's id, or 0, and verification takes the golden ones for another's."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    end = config.pop("pad_token_id")
    write_json(path, config)
    with Checkpoint.open(folder) as checkpoint:
        published = EncoderConfig.from_dict(checkpoint.published_config(), path)
        assert published.pad_token_id == end
        assert find_wrong_cases(make_cases(checkpoint), checkpoint.text, published, checkpoint.spec.task) == []


def test_a_trimmed_configuration_names_the_same_tokens(folder, tmp_path):
    """Qwen's files name several ends in a list, and no padding: it is the tokenizer's."""
    path, text = folder / "config.json", tmp_path / "text.txt"
    config = json.loads(path.read_text())
    end = config.pop("pad_token_id")
    write_json(path, {**config, "eos_token_id": [end + 1, end], "bos_token_id": None})
    text.write_text("北京\n")
    with Checkpoint.open(folder) as before:
        assert before.config.pad_token_id == end
    assert main(["trim-vocab", str(folder), "--text", str(text), "--out", str(tmp_path / "less")]) == 0
    with Checkpoint.open(tmp_path / "less") as after:
        raw, id_of = after.config.raw, after.text.tokenizer.token_to_id
        assert after.config.vocab_size <= end
        assert (raw["eos_token_id"], raw["bos_token_id"]) == ([id_of("<|im_start|>"), id_of(END)], None)
        assert raw["pad_token_id"] == id_of(END)
