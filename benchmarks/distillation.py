"""The files of docs/distillation.md, of Universal Dependencies' Chinese sentences and of CMRC 2018's passages.

    python -m benchmarks.distillation zh_gsdsimp-ud-dev.conllu zh_gsdsimp-ud-test.conllu cmrc2018_trial.json --out DIR

Words become tags of characters: B-NOUN, I-NOUN. Of each ten sentences, the first is for choosing (`dev.txt`), two are
for the last word (`test.txt`), and seven are to train on (`train.txt`). `texts.txt` has CMRC's sentences, which nobody
tagged. `dev-text.txt` and `test-text.txt` are the two files of Universal Dependencies as plain text.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.training import read_conllu
from yizhi.training.tasks.tagging import Sentence

# Of ten: the numbers of the sentences for each file.
_SHARES = {"dev.txt": (0,), "test.txt": (1, 2), "train.txt": range(3, 10)}


def tag_characters(sentence: Sentence) -> str:
    """CoNLL of characters. Symbols (SYM) are too few to learn, and count as X, UD's tag for all others."""
    tags = ("X" if tag == "SYM" else tag for tag in sentence.tags)
    words = zip(sentence.tokens, tags, strict=True)
    return "".join(f"{c}\t{'I' if n else 'B'}-{tag}\n" for word, tag in words for n, c in enumerate(word))


def split(sentences: Sequence[Sentence]) -> dict[str, str]:
    """The content of each file. A sentence with a tag that no sentence to train on has is left out."""
    parts = {
        name: [tag_characters(sentence) for number, sentence in enumerate(sentences) if number % 10 in share]
        for name, share in _SHARES.items()
    }
    known = _tags("".join(parts["train.txt"]))
    return {name: "\n".join(block for block in blocks if _tags(block) <= known) for name, blocks in parts.items()}


def _tags(blocks: str) -> set[str]:
    return {line.partition("\t")[2] for line in blocks.splitlines()}


def read_passages(path: Path) -> list[str]:
    """The sentences of SQuAD's contexts."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    contexts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    sentences = [part for text in contexts for part in re.split(r"(?<=[。！？])", text.replace("\n", ""))]
    return [sentence for sentence in sentences if sentence.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dev", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    treebanks = {"dev-text.txt": read_conllu(options.dev), "test-text.txt": read_conllu(options.test)}
    sentences = [sentence for treebank in treebanks.values() for sentence in treebank]
    written = split(sentences)
    texts = {name: ["".join(sentence.tokens) for sentence in treebank] for name, treebank in treebanks.items()}
    texts["texts.txt"] = read_passages(options.passages)
    written |= {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}
    for name, content in written.items():
        (options.out / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
