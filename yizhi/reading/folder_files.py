"""Every file of a checkpoint folder is read, known to change no answer, or refused: the table of files."""

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.tokenizer_sources import BPE_VOCAB, MERGES, SENTENCEPIECE, TOKENIZER_FILES, VOCAB

TOKEN_HEAD_PICKLES = ("sparse_linear.pt", "colbert_linear.pt")
READ, IRRELEVANT, REFUSED = "read", "irrelevant", "refused"
WEIGHTS_READ = "read: the weights"
ADAPTER = "adapter_config.json"
MERGE = "is an adapter: `yizhi import` puts it into the checkpoint that it was trained on (docs/importing.md)"
BOTTLENECK = "is a bottleneck adapter: `yizhi import` puts it into its base (docs/adapters.md)"


@dataclass(frozen=True)
class FileRule:
    """The use of the files that a pattern matches. why: their reader, or the reason why they have none."""

    pattern: str
    use: str
    why: str


_BESIDE = "the tokenizer, where there is no tokenizer.json; beside it, both must agree"
_OTHERS = dict.fromkeys((VOCAB, SENTENCEPIECE, BPE_VOCAB, MERGES), _BESIDE)

# The first that matches counts. Folders below are not read but where modules.json names them.
RULES = (
    FileRule("config.json", READ, "the model's sizes, head and labels"),
    *(FileRule(name, READ, _OTHERS.get(name, "the tokenizer")) for name in TOKENIZER_FILES),
    FileRule("model.safetensors.index.json", READ, "which shard holds which tensor"),
    FileRule("model.safetensors.index.*.json", IRRELEVANT, "of a variant that AutoModel reads on request only"),
    FileRule("pooler.safetensors", READ, "the pooler, in a PyTorch artifact of Yizhi's"),
    FileRule("token_heads.safetensors", READ, "BGE-M3's heads over tokens, in a PyTorch artifact of Yizhi's"),
    FileRule("adapter_*", REFUSED, MERGE),
    FileRule("pytorch_adapter.bin", REFUSED, BOTTLENECK),
    FileRule(
        "model*.safetensors", READ, "the weights; where the index names shards or model.safetensors is there, no other"
    ),
    FileRule("modules.json", READ, "pooling and normalisation, as sentence-transformers does them"),
    FileRule("sentence_*_config.json", READ, "sentence-transformers' length and lower-casing"),
    FileRule("config_sentence_transformers.json", READ, "sentence-transformers' prompts"),
    FileRule("*.bin", IRRELEVANT, "another copy of the weights, or a trainer's arguments; AutoModel reads safetensors"),
    FileRule("pytorch_model.bin.index.json", IRRELEVANT, "of another copy of the weights"),
    FileRule("*.h5", IRRELEVANT, "another copy of the weights"),
    FileRule("*.msgpack", IRRELEVANT, "another copy of the weights"),
    FileRule("*.pdparams", IRRELEVANT, "another copy of the weights"),
    FileRule("model_config.json", IRRELEVANT, "PaddleNLP's older form of config.json"),
    FileRule("*.ot", IRRELEVANT, "another copy of the weights"),
    FileRule("*.onnx*", IRRELEVANT, "another copy of the model"),
    FileRule("*.ckpt*", IRRELEVANT, "another copy of the weights"),
    *(
        FileRule(name, IRRELEVANT, "a head of BGE-M3's as a pickle, which `yizhi import` puts into the checkpoint")
        for name in TOKEN_HEAD_PICKLES
    ),
    FileRule("*.pt", IRRELEVANT, "a trainer's state"),
    FileRule("*.pth", IRRELEVANT, "a trainer's state"),
    FileRule("trainer_state.json", IRRELEVANT, "a trainer's state"),
    FileRule("*_results.json", IRRELEVANT, "a trainer's scores"),
    FileRule("metrics.json", IRRELEVANT, "a trainer's scores"),
    FileRule("run.json", IRRELEVANT, "the settings of a training run"),
    FileRule("vocab_map.json", IRRELEVANT, "which ids a trimmed vocabulary had before"),
    FileRule("similarity_evaluation*", IRRELEVANT, "a trainer's scores"),
    FileRule("artifact.json", IRRELEVANT, "Yizhi's description of an artifact"),
    FileRule("generation_config.json", IRRELEVANT, "for models that generate"),
    FileRule("preprocessor_config.json", IRRELEVANT, "for pictures and sound"),
    FileRule("chat_template*", IRRELEVANT, "for models that chat"),
    FileRule("*.py", IRRELEVANT, "code, which is never run; AutoModel takes its own class for these model types"),
    FileRule("spiece.model", REFUSED, "is another tokenizer, which AutoTokenizer may prefer"),
    FileRule("*.model", REFUSED, "is another tokenizer, which AutoTokenizer may prefer"),
    *(
        FileRule(f"*.{ending}", IRRELEVANT, "a document or data, which no loader reads")
        for ending in ("md", "txt", "rst", "pdf", "csv", "tsv", "jsonl", "html", "ipynb", "yaml", "yml", "toml", "log")
    ),
    *(FileRule(f"*.{ending}", IRRELEVANT, "a picture") for ending in ("png", "jpg", "jpeg", "gif", "svg", "webp")),
    *(
        FileRule(f"*.{ending}", IRRELEVANT, "packed or signed, which no loader reads")
        for ending in ("zip", "gz", "sig")
    ),
    FileRule("events.out.tfevents*", IRRELEVANT, "a trainer's log"),
    FileRule("LICENSE*", IRRELEVANT, "a document"),
    FileRule("NOTICE*", IRRELEVANT, "a document"),
    FileRule("README*", IRRELEVANT, "a document"),
    FileRule(".*", IRRELEVANT, "hidden: git's, the hub's or the system's"),
)


def is_adapter_alone(names: Collection[str]) -> bool:
    """Whether a folder of these files holds an adapter and no model."""
    return ADAPTER in names and "config.json" not in names


def find_rule(name: str) -> FileRule | None:
    """The rule for a file directly in a checkpoint folder; None for one that is not known."""
    return next((rule for rule in RULES if fnmatch.fnmatchcase(name, rule.pattern)), None)


def account_for_files(folder: Path, weights: Collection[str], ignored: Collection[str] = ()) -> dict[str, str]:
    """File name -> its reader, or the reason why it has none, of every file directly in a folder.

    weights: the names of the files that the weights are read from; any name is allowed.
    ignored: names, or patterns, of files to ignore.
    Raises InputError listing every file that could change an answer and is not understood.
    """
    found, faults = {}, []
    for path in sorted(folder.iterdir()):
        rule = find_rule(path.name)
        if path.is_dir():
            continue
        if path.name in weights:
            found[path.name] = WEIGHTS_READ
        elif is_ignored(path.name, ignored):
            found[path.name] = "ignored: as asked"
        elif rule is None:
            faults.append(f"{path.name}: could change an answer, and is not understood: see docs/importing.md")
        elif rule.use == REFUSED:
            faults.append(f"{path.name}: {rule.why}")
        elif path.suffix == ".safetensors":
            found[path.name] = "not read: another copy of the weights"
        else:
            found[path.name] = f"{'read' if rule.use == READ else 'not read'}: {rule.why}"
    if faults:
        raise InputError(folder, [*faults, "`ignored_files` passes over a file by its name; the manifest records it"])
    return found


def is_ignored(name: str, ignored: Collection[str]) -> bool:
    """Whether a name matches one of these names or patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
