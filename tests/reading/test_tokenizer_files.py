"""The tokenizer gives the ids of transformers' slow BertTokenizer, and its files carry it elsewhere."""

import json
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from tests.checkpoints import VOCAB, write_json
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint, read_vocab
from yizhi.reading.tokenizer_files import build_tokenizer, read_tokenizer_settings, tokenizer_files

SETTINGS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower in (False, True)
    for strip in (None, False, True)
    for chinese in (True, False)
]
USUAL = [SETTINGS[0], SETTINGS[6]]  # cased and lower-cased, with BertTokenizer's other defaults


def write_vocab(folder: Path, vocab: list[str]) -> str:
    path = folder / "vocab.txt"
    path.write_bytes(("\n".join(vocab) + "\n").encode())
    return str(path)


def reference(path: str, choice: dict) -> BertTokenizer:
    return BertTokenizer(path, **choice)


# --- words: every rule of BasicTokenizer, before the vocabulary hides it -------------------------


def words(choice: dict) -> tuple:
    """Two functions from text to words: the reference's, and ours."""
    ours = build_tokenizer(VOCAB, choice)
    normalizer, splitter = ours.normalizer, ours.pre_tokenizer

    def split(text: str) -> list[str]:
        return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

    return WORDS_OF_REFERENCE[json.dumps(choice)], split


@pytest.fixture(scope="module", autouse=True)
def references(tmp_path_factory):
    path = write_vocab(tmp_path_factory.mktemp("vocab"), VOCAB)
    for choice in SETTINGS:
        slow = reference(path, choice)
        slow.wordpiece_tokenizer.tokenize = lambda word: [word]
        WORDS_OF_REFERENCE[json.dumps(choice)] = slow.tokenize


WORDS_OF_REFERENCE: dict = {}

# Unicode grows, and Python and the tokenizers library each have tables of their own year. What is
# unassigned (and so removed) for one may be a letter for the other; nobody's vocabulary holds it yet.
_strip_unassigned = tokenizers.normalizers.Replace(tokenizers.Regex(r"\p{Cn}"), "")
_strip_marks = tokenizers.normalizers.Replace(tokenizers.Regex(r"\p{Mn}"), "")


def tables_agree(char: str) -> bool:
    decomposed = unicodedata.normalize("NFD", char)
    if tokenizers.normalizers.NFD().normalize_str(char) != decomposed:
        return False
    lowered = tokenizers.normalizers.Lowercase().normalize_str(char)
    if unicodedata.category(char) == "Cn" and lowered != char:
        return False
    for part in char + decomposed + lowered:
        category = unicodedata.category(part)
        if (category == "Cn") != (_strip_unassigned.normalize_str(part) == ""):
            return False
        if category.startswith("M") and (category == "Mn") != (_strip_marks.normalize_str(part) == ""):
            return False
    return True


def sampled_characters() -> list[str]:
    """All of Unicode, but for most of its long uniform blocks."""
    uniform = [(0x3500, 0x4D00), (0x4F00, 0x9F00), (0xAD00, 0xD700), (0x17100, 0x18C00), (0x1B180, 0x1B2F0)]
    planes = [(0x20100, 0x2A600), (0x2A800, 0x2B700), (0x2B900, 0x2CE00), (0x2CF00, 0x2F7F0), (0x2FA40, 0x10FF00)]
    skipped = {code for first, last in uniform + planes for code in range(first, last) if code % 211}
    return [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code not in skipped]


@pytest.mark.parametrize("choice", USUAL, ids=["cased", "lower"])
def test_every_character_makes_the_words_it_should(choice):
    theirs, ours = words(choice)
    wrong = []
    characters = [char for char in sampled_characters() if tables_agree(char)]
    assert len(characters) > 50_000
    for char in characters:
        text = f"a{char}b"
        if theirs(text) != ours(text):
            wrong.append((f"U+{ord(char):04X}", theirs(text), ours(text)))
    assert wrong == []


AWKWARD = st.sampled_from(
    [
        *"aAzZéÉßİıſΣσςǅﬁ的中々〇ー한글ｱＡ１。，！？“”…—·#[]@$^`|~_'\"\\/-.0123456789",
        *("e\u0301", "A\u030a", "\u0301", "\u0345", "\u05b0", "\u0e31", "\u093e", "\u20dd"),  # marks of all kinds
        *(
            " ",
            "\t",
            "\n",
            "\r",
            "\x0b",
            "\x0c",
            "\x1c",
            "\x85",
            "\xa0",
            "\u2002",
            "\u2028",
            "\u2029",
            "\u3000",
            "\u1680",
        ),
        *("\0", "\x7f", "\xad", "\u200b", "\u200d", "\ufeff", "\ufffd", "\ue000", "\uffff", "\ufe0f", "\u061c"),
        *("\uf900", "\ufa0e", "\U0002b820", "\U0002b91f", "\U0002ceb0", "\U0002f800", "\U00020000", "\U0001f600"),
        *("\u1100\u1161\u11a8", "\u212b", "\u2126", "\u0958", "\u0344", "\u1e9b\u0323", "😀", "👨‍👩‍👧"),
    ]
)
TEXTS = st.lists(AWKWARD | st.characters(exclude_categories=["Cs", "Cn"]).filter(tables_agree), max_size=25).map(
    "".join
)


@pytest.mark.parametrize("choice", SETTINGS, ids=lambda choice: "-".join(map(str, choice.values())))
def test_awkward_texts_make_the_words_they_should(choice):
    theirs, ours = words(choice)

    @settings(max_examples=120, deadline=None, database=None)
    @given(TEXTS)
    @example("ΑΣ ΑΣΑ Σ")
    @example("中\u0301文e\u200d\u0301")
    @example("\u2028的\u2029")
    def agree(text: str) -> None:
        assert ours(text) == theirs(text)

    agree()


# --- ids -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(shared_data) -> Path:
    return shared_data / "vocab" / "vocab.txt"


@pytest.mark.parametrize("choice", USUAL, ids=["cased", "lower"])
def test_golden_ids(shared_data, published, choice):
    path = shared_data / "reference" / "tokenizer_goldens.json"
    case = "lower" if choice["do_lower_case"] else "cased"
    samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
    expected = {sample["text"]: sample[case] for sample in samples if case in sample}
    assert len(expected) >= 8
    ours = build_tokenizer(read_vocab(published), choice)
    assert {text: ours.encode(text).ids for text in expected} == expected


SPECIAL = st.sampled_from(
    ["[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[mask]", "[unused1]", "[MASK", "##ing", "hello", "playing"]
)


@pytest.mark.parametrize("choice", USUAL, ids=["cased", "lower"])
def test_ids_on_the_published_vocabulary(published, choice):
    slow = reference(str(published), choice)
    ours = build_tokenizer(read_vocab(published), choice)

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(SPECIAL | AWKWARD, max_size=15).map("".join), st.none() | TEXTS)
    @example("", None)
    @example("", "")
    @example("a[MASK]b [MASK][MASK]", "\u2028")
    @example("x" * 100 + " " + "x" * 101, None)
    @example("\x00\ufffd\u2028", None)
    def agree(text: str, pair: str | None) -> None:
        expected = slow(text, pair)
        found = ours.encode(text, pair)
        assert found.ids == expected["input_ids"]
        assert found.type_ids == expected["token_type_ids"]

    agree()


def test_line_separators_are_spaces_though_the_vocabulary_has_them(published):
    """BertTokenizer splits on U+2028, so entries 343 and 13502 are never used; they must still hold their places."""
    ours = build_tokenizer(read_vocab(published), USUAL[0])
    assert ours.encode("的\u2028的").ids == ours.encode("的 的").ids
    assert ours.token_to_id("[MASK]") == 103


def test_offsets_point_into_the_text_as_it_was_given():
    text = "\x00He\u0301llo\u200b的 [MASK]，world"
    encoding = build_tokenizer(VOCAB, USUAL[1]).encode(text)
    spans = dict(zip(encoding.tokens, encoding.offsets, strict=True))
    assert [text[slice(*spans[token])] for token in ("hello", "的", "[MASK]", "，", "world")] == [
        "He\u0301llo",
        "的",
        "[MASK]",
        "，",
        "world",
    ]


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", USUAL, ids=["cased", "lower"])
def test_files_carry_the_tokenizer_to_transformers(make_checkpoint, tmp_path, choice):
    source = make_checkpoint(tokenizer_config={**choice, "model_max_length": 10**30})
    with Checkpoint.open(source) as checkpoint:
        files = tokenizer_files(checkpoint)
        ours = build_tokenizer(checkpoint.vocab, choice)
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())

    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.is_fast
    assert loaded.model_max_length == 64
    assert (loaded.mask_token_id, loaded.pad_token_id) == (4, 0)
    slow = BertTokenizer.from_pretrained(folder)
    for text in ("Hello 的[MASK]，worlds e\u0301", "Ａ的\U0002b820的\uf900", ""):
        assert loaded(text)["input_ids"] == slow(text)["input_ids"] == ours.encode(text).ids
    assert read_tokenizer_settings(folder) == choice
    assert read_vocab(folder / "vocab.txt") == VOCAB


def test_files_are_the_same_bytes_each_time(make_checkpoint):
    with Checkpoint.open(make_checkpoint()) as checkpoint:
        assert tokenizer_files(checkpoint) == tokenizer_files(checkpoint)


def test_settings_that_are_not_said(tmp_path):
    assert read_tokenizer_settings(tmp_path) == USUAL[1]
    write_json(tmp_path / "tokenizer_config.json", {"init_inputs": []})
    assert read_tokenizer_settings(tmp_path) == USUAL[1]


def test_settings_as_transformers_writes_them(tmp_path):
    path = write_vocab(tmp_path, VOCAB)
    BertTokenizer(path, do_lower_case=False).save_pretrained(tmp_path)
    assert "added_tokens_decoder" in json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert read_tokenizer_settings(tmp_path) == USUAL[0]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"do_lower_case": "yes"}, "do_lower_case: expected true or false; found 'yes'"),
        ({"do_lower_case": None}, "do_lower_case: expected true or false; found None"),
        ({"strip_accents": 1}, "strip_accents: "),
        ({"tokenizer_class": "AlbertTokenizer"}, "tokenizer_class: expected one of BertTokenizer"),
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class: "),
        ({"do_basic_tokenize": False}, "do_basic_tokenize: not supported"),
        ({"never_split": ["C++"]}, "never_split: not supported"),
        ({"additional_special_tokens": ["[E1]"]}, "additional_special_tokens: not supported"),
        ({"mask_token": "<mask>"}, "mask_token: expected [MASK]; found '<mask>'"),
        ({"mask_token": {"content": "[MASK]", "lstrip": True}}, "mask_token: expected [MASK]"),
        ({"added_tokens_decoder": {"116": {"content": "[E1]"}}}, "added_tokens_decoder: "),
        ({"added_tokens_decoder": 3}, "added_tokens_decoder: "),
    ],
)
def test_other_tokenizers_are_refused(tmp_path, config, says):
    write_json(tmp_path / "tokenizer_config.json", config)
    with pytest.raises(InputError) as caught:
        read_tokenizer_settings(tmp_path)
    (fault,) = caught.value.faults
    assert fault.startswith(says)


def test_every_fault_of_the_settings_at_once(tmp_path):
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": 1, "strip_accents": 2, "pad_token": "<pad>"})
    with pytest.raises(InputError) as caught:
        read_tokenizer_settings(tmp_path)
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["do_lower_case", "strip_accents", "pad_token"]
