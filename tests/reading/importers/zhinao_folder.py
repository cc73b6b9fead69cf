"""A small 360Zhinao checkpoint as it is published: fused kernels, its configuration, a tiktoken vocabulary."""

import base64
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from tests.checkpoints import Tensors, write_json, write_weights
from tests.reading.importers.foreign_files import save_bin

# Of ZhinaoTokenizer, as the authors' code has them.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    *("<pad>", "<unk>", "<mask>", "<eod>", "<eop>"),
    *("[space2]", "[space3]", "[space4]", "[space8]", "<|im_start|>", "<|im_end|>"),
)
_TEXT = (
    "北京是中国的首都。上海是中国的城市，首都北京有很多学校。The capital of China is Beijing; it's what they've said, "
    "we'll see, I'm here and you'd know.\n    def f(x):\n        return x == y  # 注释\n\n天地玄黄，宇宙洪荒。"
    "机器学习和语言模型 2024 12345 hello world hello\tworld\r\nＡＢＣ　全角 naïve café e\u0301 👨‍👩‍👧 "
)


def train_ranks(text: str = _TEXT, merges: int = 240) -> dict[bytes, int]:
    """Byte-level BPE over tiktoken's words, and tokens that no merge gives, as an extended vocabulary may have them."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([byte]) for byte in word.encode()] for word in regex.findall(PATTERN, text)]
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        (one, other), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        ranks[one + other] = len(ranks)
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == (one, other):
                    word[place : place + 2] = [one + other]
                place += 1
    for added in ("玄黄宇宙", "洪荒", "qqqq", "zz"):
        ranks.setdefault(added.encode(), len(ranks))
    return ranks


def write_ranks(path: Path, ranks: Mapping[bytes, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()))


def make_reference(ranks: Mapping[bytes, int]) -> Callable[[str], list[int]]:
    """What ZhinaoTokenizer gives of a text: its replacements, then tiktoken."""
    encoding = tiktoken.Encoding(
        "zhinao",
        pat_str=PATTERN,
        mergeable_ranks=dict(ranks),
        special_tokens={token: len(ranks) + place for place, token in enumerate(SPECIAL)},
    )

    def encode(text: str) -> list[int]:
        for tag in ("[br]", "<br>"):
            text = text.replace(tag, "\n")
        for count in (8, 4, 3, 2):
            text = text.replace(" " * count, f"[space{count}]")
        return encoding.encode(text, allowed_special="all", disallowed_special=())

    return encode


def make_config(**changes: Any) -> dict[str, Any]:
    """Of 2 layers, 48 wide, 6 heads in 2 groups. The feed-forward's width follows from 48."""
    return {
        **{"model_type": "zhinao", "architectures": ["ZhinaoForCausalLM"], "torch_dtype": "bfloat16"},
        **{"auto_map": {"AutoTokenizer": ["tokenization_zhinao.ZhinaoTokenizer", None]}, "use_flash_attn": "auto"},
        **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
        **{"hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 50_000.0},
        **{"vocab_size": 576, "rope_scaling": None, "sliding_window": None, "bias": False},
        **changes,
    }


def make_state(config: Mapping[str, Any], inner: int, seed: int = 0) -> Tensors:
    """Random weights as transformers' Qwen2 has them: kernels of queries, keys and values apart."""
    random = np.random.default_rng(seed)
    hidden, heads, vocab = (config[key] for key in ("hidden_size", "num_attention_heads", "vocab_size"))
    head, shared = hidden // heads, (config.get("num_key_value_heads") or heads) * (hidden // heads)
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in (f"model.layers.{number}" for number in range(config["num_hidden_layers"])):
        for name, rows in (("q", heads * head), ("k", shared), ("v", shared)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, heads * head)
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    shapes["lm_head.weight"] = (vocab, hidden)
    return {name: (random.normal(0.1, 0.3, shape)).astype(np.float32) for name, shape in shapes.items()}


def fuse(state: Tensors, config: Mapping[str, Any], gate_up: bool = False) -> Tensors:
    """The same weights as 360Zhinao's files have them, head by head."""
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    head = config["hidden_size"] // heads
    fused = dict(state)
    for layer in (f"model.layers.{number}" for number in range(config["num_hidden_layers"])):
        for leaf in ("weight", "bias"):
            query, key, value = (fused.pop(f"{layer}.self_attn.{name}_proj.{leaf}") for name in "qkv")
            rows = []
            for group in range(groups):
                for place in range(group * heads // groups, (group + 1) * heads // groups):
                    rows += list(query[place * head : (place + 1) * head])
                rows += list(key[group * head : (group + 1) * head])
                rows += list(value[group * head : (group + 1) * head])
            fused[f"{layer}.self_attn.qkv_proj.{leaf}"] = np.stack(rows)
        if gate_up:
            both = [fused.pop(f"{layer}.mlp.{name}_proj.weight") for name in ("gate", "up")]
            fused[f"{layer}.mlp.gate_up_proj.weight"] = np.concatenate(both)
        angles = config.get("rope_theta", 10_000.0) ** (-np.arange(0, head, 2) / head)
        fused[f"{layer}.self_attn.rotary_emb.inv_freq"] = angles.astype(np.float32)
    return fused


def write_zhinao(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    inner: int = 256,
    gate_up: bool = False,
    form: str = "safetensors",
    shards: int = 2,
    dtype: str = "F32",
    seed: int = 0,
) -> Tensors:
    """Write such a folder. form: `safetensors` or `bin`. Returns the weights as Qwen2 has them."""
    config = make_config() if config is None else config
    state = make_state(config, inner, seed)
    fused = fuse(state, config, gate_up)
    folder.mkdir(parents=True, exist_ok=True)
    write_ranks(folder / "vocab" / "360.tiktoken", train_ranks())
    write_json(folder / "config.json", dict(config))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "ZhinaoTokenizer", "model_max_length": 4096})
    for name in ("configuration_zhinao.py", "tokenization_zhinao.py"):
        (folder / name).write_text("raise SystemExit(3)\n")
    if form == "safetensors":
        write_weights(folder, fused, dtype, shards)
        return state
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(fused.items())[number::shards])
        save_bin(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    return state
