"""The demo's short Chinese sentences, written for it, and questions about them."""

from pathlib import Path

TEXTS = sorted(Path(__file__).parent.glob("*.txt"))
QUESTIONS = Path(__file__).parent / "questions.tsv"
CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# The questions ask for one character, so characters are hidden, and not whole words.
TRAINING = (
    *("--masking", "bert", "--line-by-line", "--max-length", "32"),
    *("--batch-size", "32", "--learning-rate", "1e-3", "--evaluate-every", "1000", "--device", "cpu", "--threads", "1"),
)
STEPS = 2000


def read_questions() -> list[tuple[str, str]]:
    """Sentences with one [MASK], and the character that belongs there."""
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return [(question, answer) for question, answer in rows]


def make_vocab() -> list[str]:
    """The special tokens, and every character of the sentences."""
    from yizhi.reading.tokenizer_files import SPECIAL_TOKENS

    characters = set("".join(path.read_text(encoding="utf-8") for path in TEXTS)) - {"\n"}
    return [*SPECIAL_TOKENS, *sorted(characters)]
