"""A folder's text becomes the ids that AutoTokenizer gives, or the folder is refused: nothing differs silently."""

import json
import os
import time
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from tests.checkpoints import VOCAB, small_config, write_json
from tests.reading.tokenizer_folders import VERSION, ask, find_difference, make_folders, read
from yizhi.errors import InputError
from yizhi.reading.auto_tokenizer import read_tokenizer

ENTRIES = [*VOCAB, "[unused1]", "un", "##used", "[E1]", "[", "]", "<mask>", "北京"]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "source"
    made.mkdir()
    write_json(made / "config.json", small_config(vocab_size=len(ENTRIES)))
    write_vocab(made, ENTRIES)
    return made


def write_vocab(folder: Path, entries: list[str], end: str = "\n") -> None:
    (folder / "vocab.txt").write_bytes("".join(f"{entry}{end}" for entry in entries).encode())


def write_saved(folder: Path, change=None, entries=ENTRIES, **settings) -> None:
    """`tokenizer.json` of BERT's tokenizer over these entries; `change` alters it."""
    from transformers import BertTokenizerFast

    write_vocab(folder, entries)
    backend = BertTokenizerFast.from_pretrained(folder, **settings).backend_tokenizer
    if change:
        change(backend)
    backend.save(str(folder / "tokenizer.json"))


def tokens_of(folder: Path, text: str) -> list[str]:
    """Ours, after they were found equal to AutoTokenizer's."""
    found = read_tokenizer(folder)
    ids = found.tokenizer.encode(text).ids
    assert ids == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    return [found.vocab[index] for index in ids]


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_tokenizer(folder)
    return caught.value.faults


# --- what was silently read as something else ----------------------------------------------------


def test_special_tokens_that_special_tokens_map_alone_names(folder):
    assert tokens_of(folder, "北[unused1]")[1:-1] == ["北", "[", "un", "##used", "##1", "]"]
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": ["[unused1]"], "mask_token": "<mask>"})
    assert tokens_of(folder, "北[unused1]<mask>")[1:-1] == ["北", "[unused1]", "<mask>"]
    assert read_tokenizer(folder).mask_id == ENTRIES.index("<mask>")


def test_added_tokens_with_ids_inside_the_vocabulary(folder):
    write_json(folder / "added_tokens.json", {"[E1]": ENTRIES.index("[E1]"), "北京": ENTRIES.index("北京")})
    assert tokens_of(folder, "北京[E1]上")[1:-1] == ["北京", "[E1]", "上"]


def test_a_vocabulary_in_another_order_in_tokenizer_json(folder):
    write_saved(folder, entries=[*ENTRIES[:5], *reversed(ENTRIES[5:])])
    write_vocab(folder, ENTRIES)
    assert tokens_of(folder, "北京")[1:-1] == ["北", "京"]
    assert read_tokenizer(folder).vocab[5] == ENTRIES[-1]


def test_a_normalizer_of_its_own_is_told_or_taken(folder):
    def change(backend):
        nfkc = tokenizers.normalizers.NFKC()
        backend.normalizer = tokenizers.normalizers.Sequence([nfkc, backend.normalizer])

    write_saved(folder, change)
    faults = faults_of(folder)
    assert faults[0].startswith("transformers 4 and 5 read its tokenizer differently: normalizer")
    assert "Ｆｕｌｌ" in faults[1]
    assert "PreTrainedTokenizerFast" in faults[2]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    assert tokens_of(folder, "ＨＥＬＬＯ")[1:-1] == ["hello"]


def test_a_frame_of_its_own_is_refused(folder):
    def change(backend):
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 3)]
        )

    write_saved(folder, change)
    assert "frame of special tokens" in faults_of(folder)[0]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    assert faults_of(folder)[0].startswith("tokenizer.json: post_processor: expected one special token before a text")


def test_settings_that_contradict_tokenizer_json_are_those_that_count(folder):
    write_saved(folder, do_lower_case=False)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    assert tokens_of(folder, "HELLO")[1:-1] == ["hello"]


def test_lengths_and_sides_are_kept(folder):
    sides = {"truncation_side": "left", "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", {"model_max_length": 16, **sides})
    found = read_tokenizer(folder)
    assert (found.length(64), found.truncation_side, found.padding_side) == (16, "left", "left")
    written = json.loads(found.files(64)["tokenizer_config.json"])
    assert {key: written[key] for key in ("model_max_length", *sides)} == {"model_max_length": 16, **sides}


def test_special_tokens_in_a_text_are_text_where_the_folder_says_so(folder):
    assert tokens_of(folder, "[E1][MASK]")[-2] == "[MASK]"
    write_json(folder / "tokenizer_config.json", {"split_special_tokens": True})
    assert "[MASK]" not in tokens_of(folder, "[E1][MASK]")
    assert json.loads(read_tokenizer(folder).files(64)["tokenizer_config.json"])["split_special_tokens"] is True


# --- what is ordinary ----------------------------------------------------------------------------


def test_what_transformers_5_saves(folder):
    """`tokenizer.json` alone, and `extra_special_tokens` as a list, which version 4 cannot read."""
    write_saved(folder)
    (folder / "vocab.txt").unlink()
    written = {"backend": "tokenizers", "is_local": True, "tokenizer_class": "BertTokenizer", "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", written)
    assert tokens_of(folder, "Hello北")[1:-1] == ["hello", "北"]
    write_json(folder / "tokenizer_config.json", {**written, "extra_special_tokens": ["[E1]"]})
    found = read_tokenizer(folder)
    assert found.tokenizer.encode("[E1]").ids[1:-1] == [ENTRIES.index("[E1]")]
    assert found.more_special == ("[E1]",)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends(folder, end):
    expected = read_tokenizer(folder).vocab
    write_vocab(folder, ENTRIES, end)
    assert read_tokenizer(folder).vocab == expected
    tokens_of(folder, "北京是[MASK]国")


def test_a_byte_order_mark_and_blank_lines_at_the_end(folder):
    text = (folder / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text + b"\n\n")
    found = read_tokenizer(folder)
    assert found.vocab == ENTRIES
    assert found.notes == ("vocab.txt: begins with a byte-order mark, which is not part of its first entry",)


def test_entries_that_appear_twice_and_blank_lines_inside(folder):
    entries = [*ENTRIES[:8], "", "北", *ENTRIES[8:]]
    write_vocab(folder, entries)
    assert tokens_of(folder, "北京")[1:-1] == ["北", "京"]
    found = read_tokenizer(folder)
    assert found.tokenizer.token_to_id("北") == len(entries) - 1 - entries[::-1].index("北")
    assert len(found.vocab) == len(entries)
    (note,) = found.notes
    assert note.startswith("vocab.txt: 1 entries appear again, first '北'")


# --- what is written is read as the same ---------------------------------------------------------


def test_files_are_read_as_what_they_were_made_of(folder, tmp_path):
    write_json(
        folder / "tokenizer_config.json",
        {
            **{"do_lower_case": False, "additional_special_tokens": ["[unused1]", "[NEW]"], "model_max_length": 20},
            "added_tokens_decoder": {
                str(len(ENTRIES) + 3): {"content": "新词", "normalized": True, "special": False},
                str(ENTRIES.index("<mask>") + 1): {"content": "<mask>", "lstrip": True, "special": True},
            },
            "mask_token": "<mask>",
        },
    )
    found = read_tokenizer(folder)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_bytes((folder / "config.json").read_bytes())
    files = found.files(64)
    for name, text in files.items():
        (artifact / name).write_bytes(text.encode())
    assert read_tokenizer(artifact).files(64) == files == read_tokenizer(folder).files(64)
    assert AutoTokenizer.from_pretrained(artifact).model_max_length == 20
    for text in ("北京 Hello <mask>新词[unused1]。", "[NEW]", ""):
        ids = tokens_of(artifact, text)
        assert ids == tokens_of(folder, text)


def test_random_folders(tmp_path, capfd):
    """Subsets of the files, flags and special tokens that transformers can save; see `tokenizer_folders`."""
    folders = make_folders(tmp_path, 0, 80)
    read_alike, differences = 0, []
    for folder in folders:
        try:
            found = read(folder, 20)
        except InputError:
            continue
        expected = ask(folder, 20)
        if expected is not None:
            read_alike += 1
            differences.append(find_difference(folder, found, expected))
    assert len(folders) > 60
    assert read_alike > len(folders) // 3, f"too few to say anything with transformers {VERSION}"
    assert [difference for difference in differences if difference] == []
    capfd.readouterr()  # the library prints of vocabularies with holes


def test_a_new_token_beside_holes_in_the_vocabulary(folder):
    """tokenizers 0.22 gives it the next id, 0.23 the count of entries, which another has: 1 of 2,100 random folders."""
    write_saved(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = saved["model"]["vocab"]
    del vocab[next(token for token in vocab if token == "的")]
    (folder / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"additional_special_tokens": ["<new>"]})
    assert faults_of(folder)[0].startswith("'<new>' is in no vocabulary, and the vocabulary has holes")


# --- faults --------------------------------------------------------------------------------------


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
        ({"mask_token": 3}, "mask_token: expected a token; found 3"),
        ({"truncation_side": "top"}, "truncation_side: expected left or right; found 'top'"),
        ({"model_max_length": "16"}, "model_max_length: expected a number of tokens; found '16'"),
        ({"additional_special_tokens": "[E1]"}, "additional_special_tokens: expected a list of tokens"),
        ({"extra_special_tokens": {"image": "[E1]"}}, "extra_special_tokens: tokens with names of their own"),
        ({"added_tokens_decoder": {"x": {"content": "[E1]"}}}, "added_tokens_decoder: 'x': expected a token"),
        ({"added_tokens_decoder": {"7": {"contents": "[E1]"}}}, "added_tokens_decoder: '7': expected a token"),
        ({"added_tokens_decoder": 3}, "added_tokens_decoder: expected an object"),
    ],
)
def test_settings_that_cannot_be_used(folder, config, says):
    write_json(folder / "tokenizer_config.json", config)
    (fault,) = faults_of(folder)
    assert fault.startswith(f"tokenizer_config.json: {says}")


def test_every_fault_at_once(folder):
    write_json(folder / "tokenizer_config.json", {"do_lower_case": 1, "strip_accents": 2})
    write_json(folder / "special_tokens_map.json", {"pad_token": 3})
    write_json(folder / "added_tokens.json", {"[E1]": "7"})
    (folder / "vocab.txt").write_bytes(b"\xff\xfe")
    assert [fault.partition(": ")[0] for fault in faults_of(folder)] == [
        *("tokenizer_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
    ]


def test_a_tokenizer_json_of_another_model(folder):
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(folder / "tokenizer.json"))
    assert faults_of(folder) == ["tokenizer.json: model: expected WordPiece; found BPE"]
    (folder / "tokenizer.json").write_text('{"model": 3}')
    assert faults_of(folder)[0].startswith("tokenizer.json: is not a tokenizer: ")


def test_a_token_that_the_vocabulary_lacks_has_no_row(folder):
    write_vocab(folder, ENTRIES[1:])
    assert read_tokenizer(folder).find_misfit(len(ENTRIES) - 1) == [
        f"vocabulary: expected {len(ENTRIES) - 1} tokens (config.json vocab_size); found {len(ENTRIES)}: "
        f"'[PAD]' ({len(ENTRIES) - 1}) have no row in the embeddings"
    ]


def test_embeddings_may_be_padded_and_no_more(folder):
    found = read_tokenizer(folder)
    size = len(found.vocab)
    assert found.find_misfit(-(-size // 64) * 64) == []
    assert found.find_misfit(size + 128) != []
    assert found.find_misfit(-(-size // 8) * 8 + 1) != []


def test_a_folder_is_read_again_only_where_a_file_has_changed(folder):
    first = read_tokenizer(folder)
    assert read_tokenizer(folder) is first
    write_vocab(folder, [*ENTRIES[:-2], *ENTRIES[:-3:-1]])
    assert read_tokenizer(folder).vocab == [*first.vocab[:-2], *first.vocab[:-3:-1]]


def test_a_file_that_was_copied_over_with_its_time_is_read_again(folder):
    """As `cp -p` writes: the same file, as long and as old as before."""
    path, before = folder / "vocab.txt", (folder / "vocab.txt").stat()
    first = read_tokenizer(folder).vocab
    time.sleep(0.05)  # what a file system counts time in
    path.write_bytes(path.read_bytes().replace("北\n京\n".encode(), "京\n北\n".encode()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    second = read_tokenizer(folder).vocab
    assert sorted(first) == sorted(second)
    assert first != second
