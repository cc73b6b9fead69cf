"""Tokenizers that are not BERT's: Unigram and BPE over bytes become the ids that transformers' fast tokenizers give."""

import json
import random
from functools import partial
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizerFast, XLMRobertaTokenizerFast

from tests.checkpoints import (
    MODERN_SETTINGS,
    TOKENIZERS,
    VOCAB,
    byte_tokenizer,
    modern_tokenizer,
    small_config,
    unigram_tokenizer,
    write_json,
    write_tokenizer,
)
from tests.reading.tokenizer_folders import make_texts, pairs
from yizhi.errors import InputError
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.tokenizer_json import try_out
from yizhi.runtimes.tokenization import Tokenizer

TEXTS = [
    *(
        "北京是中国的首都。",
        "hello  world ing",
        "北京<mask>国",
        "a <mask> b</s>c",
        "\u3000ＡＢＣ①㍿\u00a0",
        " x ",
        "\n\t",
    ),
    *("▁中国▁", "Ġhello", "e\u0301", "👨‍👩‍👧", "<mask> 是", ""),
]
# Family -> the class that saves its folder
CLASSES = {
    "xlm-roberta": XLMRobertaTokenizerFast,
    "roberta": RobertaTokenizerFast,
    "modernbert": partial(PreTrainedTokenizerFast, **MODERN_SETTINGS),
}


def write_config(folder: Path, model_type: str = "bert", **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**small_config(**changes), "model_type": model_type})


@pytest.fixture(params=TOKENIZERS)
def family(request):
    return request.param


@pytest.fixture
def folder(tmp_path, family):
    """As transformers saves it."""
    folder = tmp_path / "source"
    write_config(folder, family)
    make, _ = TOKENIZERS[family]
    CLASSES[family](tokenizer_object=make()).save_pretrained(folder)
    return folder


def compare(folder: Path, texts: list[str]) -> None:
    """Ids, types and offsets of texts and pairs, against AutoTokenizer's; types where it gives them."""
    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer(ours, 10_000)
    assert theirs.is_fast
    for text, other in pairs(texts):
        for given in ((text,), (text, other)):
            expected = theirs(*given, return_offsets_mapping=True)
            (row,) = tokenizer.tokenize([given if len(given) == 2 else text])
            assert row.ids.tolist() == expected["input_ids"], given
            assert list(map(tuple, row.offsets.tolist())) == expected["offset_mapping"], given
            assert row.types.tolist() == expected.get("token_type_ids", [0] * len(row.ids)), given
    names = ("cls", "sep", "pad", "mask")
    assert {name: getattr(ours, f"{name}_id") for name in names} == {
        name: getattr(theirs, f"{name}_token_id") for name in names
    }
    assert ours.unknown_id == theirs.unk_token_id


def test_ids_are_those_of_transformers(folder):
    compare(folder, [*TEXTS, *make_texts("other", 60)])


@pytest.mark.parametrize("family", ["xlm-roberta", "roberta"], indirect=True)
@pytest.mark.parametrize("left", [("tokenizer.json",), ("tokenizer.json", "special_tokens_map.json")])
def test_the_class_follows_from_the_model_where_no_file_names_it(folder, left):
    """xlm-roberta-base and roberta-base have no more than this on the hub."""
    for path in folder.iterdir():
        if path.name not in (*left, "config.json"):
            path.unlink()
    compare(folder, TEXTS)


def test_an_artifact_is_read_as_its_checkpoint(folder, tmp_path):
    found = read_tokenizer(folder)
    artifact = tmp_path / "artifact"
    write_config(artifact, json.loads((folder / "config.json").read_text())["model_type"])
    files = found.files(64)
    assert set(files) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for name, text in files.items():
        (artifact / name).write_bytes(text.encode())
    again = read_tokenizer(artifact)
    assert again.files(64) == files == read_tokenizer(folder).files(64)
    assert (again.frame, again.special, again.gives_types) == (found.frame, found.special, False)
    compare(artifact, TEXTS)
    assert [AutoTokenizer.from_pretrained(one)(TEXTS)["input_ids"] for one in (artifact, folder)] == [
        [found.tokenizer.encode(text).ids for text in TEXTS]
    ] * 2


def test_a_pair_has_the_frame_of_the_post_processor(folder, family):
    tokenizer = Tokenizer(read_tokenizer(folder), 64)
    (row,) = tokenizer.tokenize([("北</s>京", "中国")])
    first, second = row.parts
    between = {"modernbert": 1}.get(family, 2)
    special = [0, *range(first.stop, first.stop + between), -1]
    assert row.ids[special].tolist() == [tokenizer.cls_id, *[tokenizer.sep_id] * (between + 1)]
    assert (first.start, second.start, second.stop) == (1, first.stop + between, len(row.ids) - 1)
    assert not row.types.any()
    (empty,) = tokenizer.tokenize([("北京", "")])
    assert [part.stop - part.start for part in empty.parts] == [len(empty.ids) - between - 2, 0]


def test_each_text_is_found_after_a_cut(folder):
    tokenizer = Tokenizer(read_tokenizer(folder), 24)
    (whole,) = tokenizer.tokenize([("天地好快酒店服务" * 4, "北京的")])
    for long, cut in (("truncate", 0), (2, 0), ("truncate", None)):
        for row in tokenizer.fit(whole, long, cut=cut):
            assert row.ids[row.parts[1]].tolist() == whole.ids[whole.parts[1]].tolist()
            assert row.ids[row.parts[0].stop] == tokenizer.sep_id
            assert row.parts[0].stop - row.parts[0].start < 24


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_pair_is_cut_as_by_transformers(folder, side):
    write_json(
        folder / "tokenizer_config.json",
        json.loads((folder / "tokenizer_config.json").read_text()) | {"truncation_side": side},
    )
    tokenizer, theirs = Tokenizer(read_tokenizer(folder), 24), AutoTokenizer.from_pretrained(folder)
    first, second = "北京", "天地好快酒店服务很房间干净早餐" * 3
    (row,) = tokenizer.fit(tokenizer.tokenize([(first, second)])[0], "truncate", cut=1)
    assert row.ids.tolist() == theirs(first, second, truncation="only_second", max_length=24)["input_ids"]
    windows = tokenizer.fit(tokenizer.tokenize([(first, second)])[0], 3, cut=1)
    assert len(windows) > 1
    for window in windows:
        assert window.ids[window.parts[0]].tolist() == row.ids[row.parts[0]].tolist()
        assert len(window.ids) <= 24


def test_types_are_those_that_the_class_gives(tmp_path):
    """ModernBERT's frame says type 1 of a second text, and its class gives no types."""
    write_config(tmp_path, "modernbert")
    write_tokenizer(tmp_path, modern_tokenizer(), "PreTrainedTokenizerFast")
    assert read_tokenizer(tmp_path).frame.second_type == 0
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write_json(tmp_path / "tokenizer_config.json", settings | {"model_input_names": ["input_ids", "token_type_ids"]})
    assert read_tokenizer(tmp_path).frame.second_type == 1
    compare(tmp_path, TEXTS)


def test_random_texts(tmp_path, family):
    chance = random.Random(0)
    texts = [
        "".join(
            chr(
                chance.choice(
                    [chance.randrange(0x20, 0x250), chance.randrange(0x2000, 0xD7FF), chance.randrange(0xF900, 0x2FFFF)]
                )
            )
            for _ in range(20)
        )
        for _ in range(60)
    ]
    make, name = TOKENIZERS[family]
    write_config(tmp_path, family)
    write_tokenizer(tmp_path, make(), name)
    compare(tmp_path, texts)


# --- faults --------------------------------------------------------------------------------------


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_tokenizer(folder)
    return caught.value.faults


def alter(folder: Path, **changes) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for part, change in changes.items():
        saved[part] = {**saved[part], **change} if part == "model" else change
    write_json(folder / "tokenizer.json", saved)


def _pair(first: str, second: str) -> list[dict]:
    texts = [{"Sequence": {"id": text, "type_id": 0}} for text in (first, second)]
    begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    return [begin, texts[0], end, texts[1], end]


_FRAME = {
    "type": "TemplateProcessing",
    "single": [*_pair("A", "B")[:2], _pair("A", "B")[-1]],
    "pair": _pair("A", "B"),
    "special_tokens": {token: {"id": token, "ids": [at], "tokens": [token]} for token, at in (("<s>", 0), ("</s>", 2))},
}


def test_a_panic_of_the_library_is_a_fault_of_the_file():
    class PanicException(BaseException):
        pass

    def panic():
        raise PanicException("chunk size must be non-zero\nat line 34")

    with pytest.raises(ValueError, match=r"^chunk size must be non-zero$"):
        try_out(panic)


@pytest.mark.parametrize("types", [(0, 7, 0), (1, 0, 0), (0, 1, 1)])
def test_types_that_no_row_has(tmp_path, types):
    """Of a pair's first text, its second, and of a text alone."""
    write_word_pieces(tmp_path, *types)
    (fault,) = faults_of(tmp_path)
    assert fault.startswith("tokenizer.json: post_processor: expected type 0, and 0 or 1 from a pair's second text on")


@pytest.mark.parametrize("second", [0, 1])
def test_word_pieces_with_a_frame_of_their_own_go_into_an_artifact(tmp_path, second):
    """Type 0 for a pair is what the tokenizers library gives a template that says nothing; BertTokenizer gives 1."""
    write_word_pieces(tmp_path / "source", 0, second, 0)
    found = read_tokenizer(tmp_path / "source")
    write_config(tmp_path / "artifact")
    for file, text in found.files(64).items():
        (tmp_path / "artifact" / file).write_text(text, encoding="utf-8")
    again = read_tokenizer(tmp_path / "artifact")
    assert (again.frame, again.frame.second_type) == (found.frame, second)
    compare(tmp_path / "artifact", TEXTS)


def write_word_pieces(folder: Path, first: int, second: int, alone: int) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({token: at for at, token in enumerate(VOCAB)}))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"[CLS]:{alone} $A:{alone} [SEP]:{alone}",
        pair=f"[CLS]:{first} $A:{first} [SEP]:{first} $B:{second} [SEP]:{second}",
        special_tokens=[(token, VOCAB.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    write_config(folder)
    write_tokenizer(folder, made, "PreTrainedTokenizerFast", model_input_names=["input_ids", "token_type_ids"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_len": "x"}, "max_len: expected a number of tokens; found 'x'"),
        ({"max_len": -3}, "max_len: expected a number of tokens; found -3"),
        ({"pad_token": ""}, "pad_token: expected a token; found ''"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, settings, says):
    write_config(tmp_path, "roberta")
    write_tokenizer(tmp_path, byte_tokenizer(), "RobertaTokenizer", **settings)
    assert faults_of(tmp_path) == [f"tokenizer_config.json: {says}"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalizer": {"type": "Shout"}}, "tokenizer.json: normalizer: expected one of BertNormalizer, "),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "X"}]}}, "tokenizer.json: normalizer: expected"),
        ({"pre_tokenizer": {"type": "Jieba"}}, "tokenizer.json: pre_tokenizer: expected one of BertPreTokenizer, "),
        ({"pre_tokenizer": 3}, "tokenizer.json: pre_tokenizer: expected an object; found 3"),
        ({"post_processor": None}, "tokenizer.json: post_processor: expected one special token before a text"),
        (
            {
                "post_processor": {
                    "type": "RobertaProcessing",
                    "sep": ["</s>", 2],
                    "cls": ["<s>", 9999],
                    "trim_offsets": True,
                    "add_prefix_space": False,
                }
            },
            "tokenizer.json: post_processor: the ids [9999] are of no token",
        ),
        ({"model": {"dropout": 0.1}}, "tokenizer.json: model: dropout: expected none; found 0.1"),
        # The library panics at these: no Exception, and so nothing that a caller expects.
        (
            {"model": {"continuing_subword_prefix": "##"}},
            "tokenizer.json: model: continuing_subword_prefix: expected none beside merges; found '##'",
        ),
        (
            {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
            "tokenizer.json: pre_tokenizer: FixedLength: length: expected 1 or more; found 0",
        ),
        (
            {"post_processor": {"type": "Sequence", "processors": [_FRAME, _FRAME]}},
            "tokenizer.json: post_processor: expected one part that adds special tokens; found TemplateProcessing, ",
        ),
        # The second text first; the first text twice.
        ({"post_processor": {**_FRAME, "pair": _pair("B", "A")}}, "tokenizer.json: post_processor: expected one speci"),
        ({"post_processor": {**_FRAME, "pair": _pair("A", "A")}}, "tokenizer.json: post_processor: expected one speci"),
    ],
)
def test_parts_that_cannot_be_used(tmp_path, changes, says):
    write_config(tmp_path, "roberta")
    write_tokenizer(tmp_path, byte_tokenizer(), "RobertaTokenizer")
    alter(tmp_path, **changes)
    (fault,) = faults_of(tmp_path)
    assert fault.startswith(says)


def test_a_unigram_model_without_an_unknown_token(tmp_path):
    write_config(tmp_path, "xlm-roberta")
    write_tokenizer(tmp_path, unigram_tokenizer(), "XLMRobertaTokenizer")
    alter(tmp_path, model={"unk_id": None})
    assert faults_of(tmp_path)[0].startswith("tokenizer.json: model: unk_id: expected an id; found None")


def test_a_pair_for_a_tokenizer_of_single_texts(tmp_path):
    made = unigram_tokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    write_config(tmp_path, "xlm-roberta")
    write_tokenizer(tmp_path, made, "XLMRobertaTokenizer")
    tokenizer = Tokenizer(read_tokenizer(tmp_path), 64)
    assert len(tokenizer.tokenize(["北京"])) == 1
    with pytest.raises(InputError, match="text 2 of 2: expected a text; found a pair, for which post_processor"):
        tokenizer.tokenize(["北京", ("北", "京")])


def test_a_vocabulary_of_another_size(tmp_path, family):
    make, name = TOKENIZERS[family]
    write_config(tmp_path, family)
    write_tokenizer(tmp_path, make(), name)
    size = make().get_vocab_size()
    found = read_tokenizer(tmp_path)
    assert found.find_misfit(size) == []
    assert found.find_misfit(size - 1) == [
        f"vocabulary: expected {size - 1} tokens (config.json vocab_size); found {size}: "
        f"{'[MASK]' if family == 'modernbert' else '<mask>'!r} ({size - 1}) have no row in the embeddings"
    ]


def test_what_transformers_5_saves(tmp_path, family):
    """`extra_special_tokens` as a list, which version 4 cannot read; `tokenizer.json` is then version 5's own."""
    make, name = TOKENIZERS[family]
    write_config(tmp_path, family)
    write_tokenizer(tmp_path, make(), name, backend="tokenizers", is_local=True, extra_special_tokens=["[E1]"])
    found = read_tokenizer(tmp_path)
    assert found.tokenizer.encode("北[E1]").ids[-2] == make().get_vocab_size()
    assert found.more_special == ("[E1]",)
    assert found.notes == () or "normalizer" in found.notes[0]


def test_padding_that_positions_are_not_counted_from(tmp_path):
    """RoBERTa's positions pass over the padding's id, so another id would move every position."""
    write_config(tmp_path, "xlm-roberta")
    write_tokenizer(tmp_path, unigram_tokenizer(), "XLMRobertaTokenizer")
    found = read_tokenizer(tmp_path)
    size = len(found.vocab)
    assert found.find_misfit(size, padding=1) == []
    assert found.find_misfit(size, padding=0) == [
        "pad_token: expected the id 0 (config.json pad_token_id); found <pad> (1)"
    ]
    assert len(found.find_misfit(size - 1, padding=0)) == 2
