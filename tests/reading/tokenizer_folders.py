"""Random tokenizer folders as the installed transformers saves them, and texts that tell tokenizers apart.

To look for silent differences among many folders, with transformers 4 and 5 in two environments:

    python -m tests.reading.tokenizer_folders make FOLDERS SEED COUNT       # in each
    python -m tests.reading.tokenizer_folders ask FOLDERS ANSWERS.jsonl     # in each
    python -m tests.reading.tokenizer_folders compare FOLDERS ANSWERS.jsonl ANSWERS.jsonl
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tokenizers.normalizers
import tokenizers.processors
import transformers
from transformers import AddedToken, AutoTokenizer, BertTokenizer, BertTokenizerFast

VERSION = int(transformers.__version__.partition(".")[0])
ENTRIES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]", "[unused3]"),
    *("<s>", "</s>", "<mask>", "[E1]", "[E2]"),
    *"的一是不在有人这个上中大国北京首都天地好快酒店服务很房间干净早餐学习机器语言模型山水花月",
    *"abcdefghijklmnopqrstuvwxyzABCDEFGHIÉéß0123456789ＡａＢ１",
    *("hello", "world", "##ing", "##ed", "##s", "##a", "##b", "##1", "##的", "##2", "caf", "##e", "##é", "Hello"),
    *("。", "，", "！", "？", ".", ",", "!", "-", "(", ")", "[", "]", "##used", "un", "：", "①", "㍿", "\u2028"),
    *("한", "国家", "##国"),
]
_PIECES = [
    *"的一是国北京酒店服aAzZéÉßİıſΣσςﬁ中々〇ー한글ｱＡａ１。，！？“”…—·#[]@$^`|~_'\"\\/-.0123456789①㍿：",
    *("e\u0301", "A\u030a", "\u0301", "\u0345", "\u05b0", "\u0e31", "\u093e", "\u20dd", " ", "  ", "\t", "\n", "\r"),
    *("\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2002", "\u2028", "\u2029", "\u3000", "\u1680", "\0", "\x7f", "\xad"),
    *("\u200b", "\u200d", "\ufeff", "\ufffd", "\ue000", "\uffff", "\ufe0f", "\u061c", "\uf900", "\ufa0e"),
    *("\U0002b820", "\U0002b91f", "\U0002ceb0", "\U0002f800", "\U00020000", "\U00030000", "\U00031350", "😀", "👨‍👩‍👧"),
    *("[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[mask]", "[unused1]", "[E1]", "[E2]", "[T1]", "<ent>", "<new>"),
    *("<mask>", "<s>", "</s>", "[T9]", "新词语", "Wörld", "wörld", "foo bar", "hello", "Hello", "worlds", "##ing"),
    *("好快", "国家", "playing", "café", "Café", "x" * 99, "x" * 101, "[MASK", "MASK]", "un used"),
]
_FIXED = [
    *("", "   ", "\u2028", "北京是[MASK]国的首都。", "Ｆｕｌｌ　ｗｉｄｔｈ１２３", "Hello World café ①㍿"),
    *("  [MASK]  [unused1] x", "a[MASK]b [E1] [E2]。", "新词语Wörld国家好快", "[CLS]我[SEP]你[PAD]"),
]


def make_texts(seed: object, count: int = 50) -> list[str]:
    """Texts of mixed scripts, compatibility forms, accents, control characters and special tokens."""
    chance = random.Random(str(seed))
    made = ["".join(chance.choice(_PIECES) for _ in range(chance.randrange(1, 14))) for _ in range(count - len(_FIXED))]
    return [*_FIXED, *made]


def make_folder(chance: random.Random, folder: Path) -> None:
    """A tokenizer with random settings, special and added tokens, saved; then some of its files or fields removed."""
    folder.mkdir(parents=True)
    entries = _make_entries(chance)
    text = "".join(f"{entry}\n" for entry in entries).encode()
    (folder / "vocab.txt").write_bytes(text)
    slow = VERSION == 4 and chance.random() < 0.3
    tokenizer = (BertTokenizer if slow else BertTokenizerFast).from_pretrained(folder, **_make_settings(chance))
    if chance.random() < 0.3:
        tokenizer.add_tokens(_make_added(chance), special_tokens=chance.random() < 0.3)
    if chance.random() < 0.1:
        tokenizer.add_special_tokens({"additional_special_tokens": ["[T9]"]})
    if not slow:
        _alter(chance, tokenizer.backend_tokenizer)
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    if VERSION == 5 and chance.random() < 0.2:
        (folder / "vocab.txt").write_bytes(text)
    sizes = {"vocab_size": len(entries) + 10, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": chance.choice(["bert", "electra"]), "intermediate_size": 32, **sizes}
    names = sorted(path.name for path in folder.iterdir())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    _spoil(chance, folder, names, entries)


def _make_entries(chance: random.Random) -> list[str]:
    entries = list(ENTRIES)
    if chance.random() < 0.3:
        entries = [*entries[:5], *chance.sample(entries[5:], len(entries) - 5)]
    if chance.random() < 0.1:
        chance.shuffle(entries)
    if chance.random() < 0.1:
        entries.insert(chance.randrange(5, len(entries)), chance.choice(entries[5:]))
    if chance.random() < 0.1:
        entries.insert(chance.randrange(5, len(entries)), "")
    return entries


def _make_settings(chance: random.Random) -> dict[str, Any]:
    choices: dict[str, tuple[float, list[Any]]] = {
        "do_lower_case": (0.5, [True, False]),
        "strip_accents": (0.3, [True, False, None]),
        "tokenize_chinese_chars": (0.3, [True, False]),
        "model_max_length": (0.3, [16, 128, 512]),
        "truncation_side": (0.2, ["left"]),
        "padding_side": (0.2, ["left"]),
        "split_special_tokens": (0.15, [True]),
        "mask_token": (0.15, ["<mask>", "[unused1]", AddedToken("[MASK]", lstrip=True, special=True)]),
        "cls_token": (0.1, ["<s>"]),
        "sep_token": (0.1, ["</s>"]),
        "unk_token": (0.1, ["[unused3]"]),
        "bos_token": (0.05, ["[unused2]"]),
        "eos_token": (0.05, ["[SEP]"]),
    }
    settings = {key: chance.choice(values) for key, (share, values) in choices.items() if chance.random() < share}
    if chance.random() < 0.3:
        more: list[Any] = chance.sample(["[E1]", "[E2]", "[unused1]", "<new>", "好快"], chance.randrange(1, 4))
        if chance.random() < 0.3:
            more[0] = AddedToken(more[0], special=True, **_make_flags(chance, "lstrip", "rstrip", "normalized"))
        settings["additional_special_tokens"] = more
    return settings


def _make_added(chance: random.Random) -> list[Any]:
    tokens = ["<ent>", "[T1]", "新词语", "Wörld", "foo bar", "hello", "国", "ed"]
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    return [
        AddedToken(token, **_make_flags(chance, *flags)) if chance.random() < 0.5 else token
        for token in chance.sample(tokens, chance.randrange(1, 4))
    ]


def _make_flags(chance: random.Random, *names: str) -> dict[str, bool]:
    return {name: chance.random() < 0.4 for name in names}


def _alter(chance: random.Random, backend: tokenizers.Tokenizer) -> None:
    """Another normaliser, another frame, or lengths, as only `tokenizer.json` can hold them."""
    normalizers, processors = tokenizers.normalizers, tokenizers.processors
    if chance.random() < 0.15:
        backend.normalizer = chance.choice(
            [
                normalizers.Sequence([normalizers.NFKC(), backend.normalizer]),
                normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
                normalizers.NFKC(),
                normalizers.BertNormalizer(clean_text=False, lowercase=True),
            ]
        )
    cls, sep = (backend.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    if chance.random() < 0.07:
        half = {"single": "$A [SEP]", "pair": "$A [SEP] $B:1 [SEP]:1", "special_tokens": [("[SEP]", sep)]}
        backend.post_processor = chance.choice(
            [processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls)), processors.TemplateProcessing(**half)]
        )
    if chance.random() < 0.05:
        backend.enable_truncation(8)
    if chance.random() < 0.05:
        backend.enable_padding(length=20)


def _spoil(chance: random.Random, folder: Path, names: list[str], entries: list[str]) -> None:
    """Leave a subset of the files, and of the fields of one; write some legacy files."""
    if chance.random() < 0.5:
        for name in names:
            if chance.random() < 0.25:
                (folder / name).unlink()
    path = folder / "tokenizer_config.json"
    if path.exists() and chance.random() < 0.35:
        settings = json.loads(path.read_text())
        fields = ("added_tokens_decoder", "tokenizer_class", "do_lower_case", "mask_token", "extra_special_tokens")
        for field in chance.sample([*fields, "additional_special_tokens", "flip", "class"], 2):
            if field == "flip":
                settings["do_lower_case"] = not settings.get("do_lower_case", True)
            elif field == "class":
                classes = ["PreTrainedTokenizerFast", "BertTokenizer", "BertTokenizerFast", "ElectraTokenizer"]
                settings["tokenizer_class"] = chance.choice([*classes, "ElectraTokenizerFast", "TokenizersBackend"])
            else:
                settings.pop(field, None)
        path.write_text(json.dumps(settings))
    if chance.random() < 0.08:
        (folder / "added_tokens.json").write_text(json.dumps({"[E1]": entries.index("[E1]"), "新词语": len(entries)}))
    if chance.random() < 0.08:
        tokens = {"additional_special_tokens": ["[unused1]", "[E2]"], "mask_token": "<mask>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(tokens))


def make_folders(out: Path, seed: int, count: int) -> list[Path]:
    """So many folders; those that transformers itself cannot save are left out."""
    folders = []
    for number in range(count):
        folder = out / f"v{VERSION}-{seed}-{number:05d}"
        try:
            make_folder(random.Random(f"{VERSION}-{seed}-{number}"), folder)
        except (ValueError, TypeError, OSError):
            continue
        folders.append(folder)
    return folders


def ask(folder: Path, count: int = 50) -> list[Any] | None:
    """What AutoTokenizer makes of the texts, alone and in pairs: `[ids, ids of the pair, its types]`; None if nothing.

    Any failure counts: which folders transformers cannot open is not what is judged here.
    """
    texts = make_texts(folder.name, count)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers = []
        for text, pair in pairs(texts):
            both = tokenizer(text, pair)
            answers.append([tokenizer(text)["input_ids"], both["input_ids"], both.get("token_type_ids")])
        return answers
    except Exception:  # noqa: BLE001  see above
        return None


def pairs(texts: list[str]) -> list[tuple[str, str]]:
    """Each text with another. transformers takes an empty second text for none."""
    return [(text, texts[(index + 7) % len(texts)] or "的") for index, text in enumerate(texts)]


def read(folder: Path, count: int = 50) -> list[Any]:
    """The same by our reader. Raises InputError."""
    from yizhi.reading.auto_tokenizer import read_tokenizer

    tokenizer = read_tokenizer(folder).tokenizer
    answers = []
    for text, pair in pairs(make_texts(folder.name, count)):
        both = tokenizer.encode(text, pair)
        answers.append([tokenizer.encode(text).ids, both.ids, both.type_ids])
    return answers


def find_difference(folder: Path, found: list[Any], expected: list[Any]) -> str | None:
    """The first text on which two answers differ."""
    for (text, pair), one, other in zip(pairs(make_texts(folder.name, len(found))), found, expected, strict=True):
        if one[:2] != other[:2] or (other[2] is not None and one[2] != other[2]):
            return f"{folder.name}: {text!r}, {pair!r}: {one} is not {other}"
    return None


def compare(out: Path, answers: list[dict[str, Any]]) -> Counter[str]:
    """How many folders were read as by each version, refused, and (silently, so a fault) differently."""
    from yizhi.errors import InputError

    counts: Counter[str] = Counter()
    for folder in sorted(out.iterdir()):
        asked = [answer[folder.name] for answer in answers]
        try:
            found = read(folder)
        except InputError:
            agree = None not in asked and asked.count(asked[0]) == len(asked)
            counts["refused, though they agree" if agree else "refused"] += 1
            continue
        for number, expected in enumerate(asked):
            fault = find_difference(folder, found, expected) if expected else None
            counts[f"{number}: {'cannot be opened' if expected is None else 'differs' if fault else 'equal'}"] += 1
            if fault:
                print(fault)
    return counts


def main(command: str, out: str, *rest: str) -> None:
    """See the module's docstring."""
    transformers.utils.logging.set_verbosity(transformers.logging.CRITICAL)
    if command == "make":
        print(len(make_folders(Path(out), int(rest[0]), int(rest[1]))))
    elif command == "ask":
        answers = {folder.name: ask(folder) for folder in sorted(Path(out).iterdir())}
        Path(rest[0]).write_text(json.dumps(answers))
    else:
        print(dict(compare(Path(out), [json.loads(Path(path).read_text()) for path in rest])))


if __name__ == "__main__":
    main(*sys.argv[1:])
