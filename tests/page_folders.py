"""What each page supposes where its commands are given: small checkpoints and releases, files of texts."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import VOCAB, Tensors, small_config, write_json, write_variant
from tests.pages import read_page
from yizhi.cli import main
from yizhi.demo import make_vocab

# Of every character that a page's texts have, so that none of them is [UNK] alone.
SENTENCES = ["北京是中国的首都。", "这个酒店的服务很好！", "我住在北京。", "天上有人说好。", "早餐很好，我来。"]
TEXT = "".join(f"{one}{other}\n" for one in SENTENCES for other in SENTENCES)
TAGGED = "高\tB-PER\n志\tI-PER\n远\tI-PER\n说\tO\n\n我\tO\n在\tO\n北\tB-LOC\n京\tI-LOC\n\n"
PAIRS = "sentence1,sentence2,label\n" + "".join(
    f"{one},{other},{int(one == other)}\n" for one in SENTENCES for other in SENTENCES
)
REVIEWS = "text,label\n" + "".join(f"{text},{'好评' if '好' in text else '差评'}\n" for text in SENTENCES * 2)
SQUAD = json.dumps(
    {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": "北京是中国的首都。",
                        "qas": [
                            {"id": "1", "question": "首都？", "answers": [{"text": "北京", "answer_start": 0}]},
                            {"id": "2", "question": "哪国？", "answers": [{"text": "中国", "answer_start": 3}]},
                        ],
                    }
                ]
            }
        ]
    },
    ensure_ascii=False,
)
DEMO_VOCAB = make_vocab()
LONG = {"max_position_embeddings": 512}
DEEP = {**LONG, "num_hidden_layers": 5}
TAGS = {"id2label": {str(index): name for index, name in enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))}}
# So many entries that a page's ids of bert-base-chinese are among them.
LARGE: dict[str, Any] = {
    "config": {"vocab_size": 2000},
    "vocab": [*VOCAB, *(f"[unused{number}]" for number in range(2000 - len(VOCAB)))],
}
REVIEW_LABELS = {**LONG, "id2label": {"0": "差评", "1": "好评"}}


@dataclass
class PageFolder:
    """The folder of one page. `export` makes a release once, and copies it for each page that supposes it."""

    path: Path
    export: Callable[..., Path]

    def checkpoint(self, name: str, variant: str = "bert", **changes: Any) -> Path:
        """A small random checkpoint under the page's name for one."""
        return write_variant(self.path / name, variant, **changes)

    def release(self, name: str, variant: str = "bert", *flags: str, **changes: Any) -> Path:
        """A release of one."""
        return Path(shutil.copytree(self.export(variant, *flags, **changes), self.path / name))

    def write(self, files: dict[str, str]) -> None:
        """Text files by their names."""
        for name, text in files.items():
            (self.path / name).write_text(text, encoding="utf-8")

    def rows(self, name: str, *rows: dict[str, Any]) -> None:
        """A file of lines of JSON."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.path / name).write_text(text, encoding="utf-8")


def _readme(page: PageFolder) -> None:
    page.release("dist/demo")


def _adapters(page: PageFolder) -> None:
    page.checkpoint("bert-base-chinese", config=LONG)
    page.write({"train.txt": TAGGED, "dev.txt": TAGGED})
    _write_adapters(page.path)


def _write_adapters(folder: Path) -> None:
    """One for the base, as the adapters library saves it, and one for another base, which Yizhi cannot merge."""
    import adapters

    model = adapters.AutoAdapterModel.from_pretrained(folder / "bert-base-chinese")
    model.add_adapter("sentiment", config="double_seq_bn")
    model.save_adapter(str(folder / "sentiment-adapter"), "sentiment")
    other = Path(shutil.copytree(folder / "sentiment-adapter", folder / "albert-adapter"))
    raw = json.loads((other / "adapter_config.json").read_text())
    changed = {**raw, "model_type": "albert", "hidden_size": 312, "config": {**raw["config"], "inv_adapter": "nice"}}
    write_json(other / "adapter_config.json", changed)


def _bulk(page: PageFolder) -> None:
    page.release("dist/NAME")
    page.release("dist/ner", "bert-tagger")
    page.release("dist/reader", "bert-reader")
    page.write(
        {
            "sentences.txt": TEXT,
            "news.csv": "body\n我住在北京。\n",
            "questions.csv": "question,context\n哪里？,我在北京。\n",
        }
    )
    page.rows("masked.jsonl", {"text": "北京是[MASK]国的首都。"})
    (page.path / "big.gz").write_bytes(gzip.compress(TEXT.encode()))


def _catalogue(page: PageFolder) -> None:
    page.checkpoint("CHECKPOINT")


def _diff(page: PageFolder) -> None:
    page.release("dist/reviews-1", "bert-classifier")
    page.release("dist/reviews-2", "bert-classifier")
    page.checkpoint("bert-base-chinese")
    page.checkpoint("bert-finetuned")
    page.write({"queries.txt": TEXT})
    page.release("dist/one")
    page.release("dist/two", alter=_scale_one_kernel)


def _scale_one_kernel(tensors: Tensors) -> None:
    tensors["bert.encoder.layer.1.output.dense.weight"] *= 1.001


def _shrink_embeddings(tensors: Tensors) -> None:
    """A decoder of 256 random numbers a row is less sure of itself so, as a trained one is."""
    tensors["bert.embeddings.word_embeddings.weight"] *= 0.25


def _edge(page: PageFolder) -> None:
    page.checkpoint("CHECKPOINT", **LARGE)


def _families(page: PageFolder) -> None:
    write_json(page.path / "config.json", {**small_config("xlm-roberta"), "architectures": ["XLMRobertaModel"]})


def _generation(page: PageFolder) -> None:
    page.release("dist/NAME", "qwen3", "--target", "onnx")


def _checkpoint_and_release(page: PageFolder) -> None:
    page.checkpoint("CHECKPOINT")
    page.release("RELEASE")


def _importing(page: PageFolder) -> None:
    """Releases as other projects publish them, and a LoRA adapter as peft saves it."""
    from tests.reading.importers import foreign_files as foreign
    from tests.reading.importers.test_lora import save as save_lora
    from tests.reading.importers.test_pdparams import paddle_state
    from tests.reading.importers.test_pdparams import write as write_paddle
    from tests.reading.importers.uer_reference import uer_config, uer_state

    source = write_variant(page.path.parent / f"{page.path.name}-source", "bert")
    tensors, config = foreign.read_tensors(source)

    torch = foreign.copy_beside(source, page.path / "chinese_wwm_ext_pytorch", config, "bert_config.json")
    foreign.save_bin(torch / "pytorch_model.bin", tensors)
    foreign.make_zip(page.path / "chinese_wwm_ext_pytorch.zip", torch)

    google = page.path / "chinese_L-12_H-768_A-12"
    foreign.copy_beside(source, google, foreign.google_config(config), "bert_config.json")
    foreign.save_tf1(google / "bert_model.ckpt", foreign.google_tensors(tensors))

    uer = foreign.copy_beside(source, page.path / "models" / "bert", uer_config(config), "base_config.json")
    (uer / "vocab.txt").rename(page.path / "google_zh_vocab.txt")
    foreign.save_bin(page.path / "mixed_corpus_model.bin", uer_state(tensors, config))

    save_lora(source, page.path / "lora-sentiment", "BertForSequenceClassification", 2, task_type="SEQ_CLS")

    settings = {"model_type": "bert", **config}
    write_paddle(foreign.copy_beside(source, page.path / "ernie-3.0-base-zh", settings), paddle_state(tensors))


def _int8(page: PageFolder) -> None:
    _checkpoint_and_release(page)
    page.write({"sentences.txt": TEXT})


def _ner(page: PageFolder) -> None:
    page.checkpoint("bert-base-chinese", config=DEEP)
    page.write({"train.txt": TAGGED, "dev.txt": TAGGED})
    page.checkpoint("build/walkthrough/ner", "bert-tagger", config=TAGS)
    (page.path / "build/walkthrough/data").mkdir()
    (page.path / "build/walkthrough/data/test.txt").write_text(TAGGED, encoding="utf-8")


def _policy(page: PageFolder) -> None:
    """The page's policy, a release that its first signer signed, and the signer's list, where another release is."""
    (policy,) = (block.text for block in read_page("docs/policy.md") if block.language == "toml")
    page.write({"policy.toml": policy})
    release, key, public = page.release("dist/NAME"), page.path / "key.pem", page.path / "release-2026.pub"
    new = "openssl ecparam -name prime256v1 -genkey -noout -out"
    subprocess.run([*new.split(), key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    withdrawn = str(page.path / "withdrawn.sigstore.json")
    assert main(["sign", str(release), "--key", str(key)]) == 0
    assert main(["revoke", "0" * 64, "--list", withdrawn, "--reason", "test", "--key", str(key)]) == 0


def _pretraining(page: PageFolder) -> None:
    page.checkpoint("rbt3", config=LONG)
    page.checkpoint("zh-mini", config=LONG)
    page.write(
        {"news.txt": TEXT, "held-out.txt": TEXT, "ud.txt": TEXT, "vectors.txt": "北京 1 0\n中国 1 0.1\n首都 0.9 0\n"}
    )


def _checklist(page: PageFolder) -> None:
    page.checkpoint("SOURCE")
    page.release("dist/NAME-old")
    page.write({"sentences.txt": TEXT})


def _retrieval(page: PageFolder) -> None:
    page.checkpoint("BAAI/bge-small-zh-v1.5", "bert-no-head", config=LONG)
    page.checkpoint("BAAI/bge-reranker-base", "bert-regression", config=LONG)
    page.checkpoint("rbt3", config=LONG)
    page.write({"pairs.csv": PAIRS, "dev.csv": PAIRS})
    page.rows("documents.jsonl", *({"document": f"{text}{number}"} for number, text in enumerate(SENTENCES * 3)))
    page.rows("queries.jsonl", *({"query": text} for text in SENTENCES))
    page.rows("candidates.jsonl", *({"query": text, "document": text} for text in SENTENCES))


def _sentence_embeddings(page: PageFolder) -> None:
    page.checkpoint("rbt3", config=LONG)
    page.write({"pairs.csv": PAIRS, "dev.csv": PAIRS, "sentences.txt": TEXT})


def _distillation(page: PageFolder) -> None:
    page.checkpoint("roberta-wwm-ext", config=DEEP)
    page.checkpoint("reviews", "bert-classifier", config={**REVIEW_LABELS, "num_hidden_layers": 12})
    page.write({"news.txt": TEXT, "held-out.txt": TEXT, "train.csv": REVIEWS, "dev.csv": REVIEWS, "more.txt": TEXT})


def _elsewhere(page: PageFolder) -> None:
    page.release("dist/NAME", "bert", "--target", "onnx", "--target", "onnx-int8", "--target", "tensorflow")


def _serving(page: PageFolder) -> None:
    page.release("dist/bert-base-chinese")
    page.release("dist/ner", "bert-tagger")
    page.release("dist/sentiment", "bert-classifier", config=REVIEW_LABELS)
    page.release("dist/reader", "bert-reader")


def _signing(page: PageFolder) -> None:
    page.release("dist/NAME")


def _size(page: PageFolder) -> None:
    page.checkpoint("my-model", "bert-bf16")


def _tasks(page: PageFolder) -> None:
    page.release("dist/reviews", "bert-classifier", config=REVIEW_LABELS)
    page.release("dist/ner", "bert-tagger")
    page.release("dist/reader", "bert-reader")
    page.release("dist/reranker", "bert-regression")
    page.write({"documents.txt": TEXT, "queries.txt": TEXT})
    page.rows("documents.jsonl", *({"document": text} for text in SENTENCES))
    page.rows("candidates.jsonl", *({"query": text, "document": text} for text in SENTENCES))


def _training(page: PageFolder) -> None:
    page.checkpoint("rbt3", config=LONG)
    page.write({"train.txt": TAGGED, "dev.txt": TAGGED, "test.txt": TAGGED, "train.csv": REVIEWS, "dev.csv": REVIEWS})
    page.write({"train.json": SQUAD, "dev.json": SQUAD})
    page.release("RELEASE", "bert-tagger", "--target", "pytorch", "--target", "onnx", config=TAGS)


def _trimming(page: PageFolder) -> None:
    page.checkpoint("zh-mini", config=LONG)
    page.write({"text.txt": TEXT, "held-out.txt": SENTENCES[0]})


def _image_text(page: PageFolder) -> None:
    page.checkpoint("interbert", "interbert")
    rng = np.random.default_rng(0)
    np.savez(page.path / "regions.npz", features=rng.normal(size=(37, 24)), boxes=rng.random((37, 5)))


def _using(page: PageFolder) -> None:
    page.release("dist/demo", vocab=DEMO_VOCAB, config={"vocab_size": len(DEMO_VOCAB)})
    page.checkpoint("CHECKPOINT")
    targets = [flag for target in ("onnx", "onnx-int8", "openvino", "tensorflow") for flag in ("--target", target)]
    page.release("dist/NAME", "bert", "--pooling", "mean", "--normalize", *targets, **LARGE)


def _vectors(page: PageFolder) -> None:
    page.checkpoint("CHECKPOINT", config={"hidden_size": 256}, alter=_shrink_embeddings)
    page.checkpoint("bge-m3", "bert-m3")
    page.write({"texts.txt": TEXT})


FOLDERS: dict[str, Callable[[PageFolder], None]] = {
    "README.md": _readme,
    "docs/adapters.md": _adapters,
    "docs/bulk.md": _bulk,
    "docs/catalogue.md": _catalogue,
    "docs/diff.md": _diff,
    "docs/distillation.md": _distillation,
    "docs/edge.md": _edge,
    "docs/families.md": _families,
    "docs/gates.md": _checkpoint_and_release,
    "docs/generation.md": _generation,
    "docs/importing.md": _importing,
    "docs/int8.md": _int8,
    "docs/ner-walkthrough.md": _ner,
    "docs/policy.md": _policy,
    "docs/pretraining.md": _pretraining,
    "docs/release-checklist.md": _checklist,
    "docs/retrieval.md": _retrieval,
    "docs/sentence-embeddings.md": _sentence_embeddings,
    "docs/serving-elsewhere.md": _elsewhere,
    "docs/serving.md": _serving,
    "docs/signing.md": _signing,
    "docs/size.md": _size,
    "docs/tasks.md": _tasks,
    "docs/training.md": _training,
    "docs/trimming.md": _trimming,
    "docs/using.md": _using,
    "docs/vectors.md": _vectors,
    "docs/image-text.md": _image_text,
}
