"""Texts become padded inputs, or an error that names the text."""

import numpy as np
import pytest
from transformers import BertTokenizer

from tests.checkpoints import VOCAB, write_json
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Tokenizer, TooLong

TEXTS = ["北京是[MASK]国的首都。", "Hello world", ("你来", "我去说！"), ""]


@pytest.fixture
def folder(make_checkpoint):
    return make_checkpoint()


def test_a_batch_is_what_transformers_makes_of_it(folder):
    encoded = Tokenizer.open(folder).encode(TEXTS)
    slow = BertTokenizer(str(folder / "vocab.txt"))
    for row, text in enumerate(TEXTS):
        one = slow(*text) if isinstance(text, tuple) else slow(text)
        length = len(one["input_ids"])
        for name, values in one.items():
            array = getattr(encoded.inputs, name)
            np.testing.assert_array_equal(array[row, :length], values)
            np.testing.assert_array_equal(array[row, length:], 0)  # [PAD] is 0 in this vocabulary
        assert encoded.tokens[row] == slow.convert_ids_to_tokens(one["input_ids"])
    assert encoded.inputs.input_ids.shape == (4, 11)
    assert encoded.inputs.input_ids.dtype == np.int64


def test_padding_is_the_pad_token_wherever_the_vocabulary_has_it(make_checkpoint):
    vocab = [*VOCAB[1:], VOCAB[0]]
    folder = make_checkpoint(vocab=vocab)
    encoded = Tokenizer.open(folder).encode(["的", "的一是"])
    np.testing.assert_array_equal(encoded.inputs.input_ids[0, 3:], [len(VOCAB) - 1] * 2)
    np.testing.assert_array_equal(encoded.inputs.attention_mask, [[1, 1, 1, 0, 0], [1] * 5])


def test_offsets_find_each_token_in_its_text(folder):
    text = "Café 的 [MASK]！"
    encoded = Tokenizer.open(folder).encode([("的", text), "的"])
    spans = encoded.offsets[0].tolist()
    assert encoded.offsets.shape == (2, len(spans), 2)
    second = [text[begin:end] for begin, end in spans[3:-1]]
    assert second == ["Café", "的", "[MASK]", "！"]
    assert spans[:3] == [[0, 0], [0, 1], [0, 0]]
    assert encoded.offsets[1, 2:].tolist() == [[0, 0]] * (len(spans) - 2)


def test_texts_longer_than_the_model_are_named_with_their_length(folder):
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.encode(["的" * 62]).inputs.input_ids.shape == (1, 64)
    with pytest.raises(InputError) as caught:
        tokenizer.encode(["的" * 63, "的", ("的" * 40, "的" * 40)])
    assert caught.value.faults == [
        "text 1 of 3: expected at most 64 tokens with [CLS] and [SEP]; found 65",
        "text 3 of 3: expected at most 64 tokens with [CLS] and [SEP]; found 83",
    ]
    with pytest.raises(InputError, match="the text: expected at most 64 tokens"):
        tokenizer.encode(["的" * 63])


@pytest.mark.parametrize(
    ("texts", "faults"),
    [
        ("的", ["expected a list of texts or of pairs of texts; found '的'"]),
        ([], ["expected a list of texts or of pairs of texts; found []"]),
        ([None], ["the text: expected a text or a pair of texts; found None"]),
        (
            [b"a", "的", ("a",), ("a", 3), ["a", "b"]],
            ["text 1 of 5: ", "text 3 of 5: ", "text 4 of 5: ", "text 5 of 5: "],
        ),
        (["\ud83d", ("a", "\udc00")], ["text 1 of 2: holds half of a surrogate", "text 2 of 2: holds half"]),
    ],
)
def test_what_is_not_text_is_refused(folder, texts, faults):
    with pytest.raises(InputError) as caught:
        Tokenizer.open(folder).encode(texts)
    assert len(caught.value.faults) == len(faults)
    assert all(fault.startswith(start) for fault, start in zip(caught.value.faults, faults, strict=True))
    str(caught.value).encode()


def test_settings_of_the_checkpoint_are_used(make_checkpoint):
    cased = make_checkpoint(name="cased", tokenizer_config={"do_lower_case": False})
    lower = make_checkpoint(name="lower")
    assert Tokenizer.open(cased).encode(["HELLO"]).tokens == [["[CLS]", "[UNK]", "[SEP]"]]
    assert Tokenizer.open(lower).encode(["HELLO"]).tokens == [["[CLS]", "hello", "[SEP]"]]


def test_an_artifact_is_opened_like_its_checkpoint(make_checkpoint, tmp_path):
    source = make_checkpoint(tokenizer_config={"do_lower_case": False})
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    with Checkpoint.open(source) as checkpoint:
        for name, text in checkpoint.text.files(64).items():
            (artifact / name).write_bytes(text.encode())
        write_json(artifact / "config.json", checkpoint.published_config())
    for text in TEXTS:
        assert Tokenizer.open(artifact).encode([text]).tokens == Tokenizer.open(source).encode([text]).tokens


def test_a_folder_that_cannot_be_used(folder):
    (folder / "vocab.txt").write_bytes(("\n".join(VOCAB[:-1]) + "\n").encode())
    with pytest.raises(InputError, match=r"expected 116 tokens .* found 115"):
        Tokenizer.open(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match="the file is missing"):
        Tokenizer.open(folder)


def test_what_is_too_long_is_cut_at_the_side_that_is_named(make_checkpoint):
    tokenizer = Tokenizer.open(make_checkpoint())
    (row,) = tokenizer.tokenize(["北" + "京" * 100 + "中"])
    ids = {side: tokenizer.cutting(side).fit(row, "truncate")[0].ids for side in ("left", "right")}
    assert (ids["right"] == [*row.ids[: tokenizer.max_length - 1], row.ids[-1]]).all()
    assert (ids["left"] == [row.ids[0], *row.ids[1 - tokenizer.max_length :]]).all()
    with pytest.raises(TooLong, match="expected at most"):
        tokenizer.fit(row)
