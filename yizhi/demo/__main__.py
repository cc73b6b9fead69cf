"""`make demo`: trains a small BERT on the demo's sentences, exports and verifies it, and asks it questions.

The questions are new sentences, put together like the training sentences. Each step is a command of `yizhi`, printed
before it runs. Steps that are up to date are skipped.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from time import monotonic

from yizhi.cli import main
from yizhi.demo import CONFIG, STEPS, TEXTS, TRAINING, make_vocab, read_questions
from yizhi.errors import CheckFailed
from yizhi.runtimes import FillMask, open_runtime
from yizhi.storage.json_files import to_json

# Of the questions, in each precision.
ENOUGH = 0.8


def demo(work: Path, release: Path, steps: int, jobs: int) -> None:
    """Train in `work`, export to `release`, and print questions and answers.

    Raises CheckFailed if a command fails, or if too few answers are right.
    """
    began = monotonic()
    sentences = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in TEXTS)
    vocab = make_vocab()
    _say(f"{sentences} short sentences in {TEXTS[0].parent} have {len(vocab) - 5} different characters.")
    _say("A random BERT that reads them: 4 layers, 128 wide.")
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.json").write_text(to_json({**CONFIG, "vocab_size": len(vocab)}), encoding="utf-8")
    (work / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    start, trained = work / "random", work / "trained"
    if start.exists() and (start / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1] != vocab:
        shutil.rmtree(start)  # of other sentences
    _run(
        "synthesize",
        "--config",
        work / "config.json",
        "--vocab",
        work / "vocab.txt",
        "--out",
        start,
        "--untrained",
        "--if-missing",
    )

    _say("Train it: hide characters, and let it predict them.")
    _run("pretrain", start, "--text", *TEXTS, "--out", trained, *TRAINING, "--max-steps", steps)

    _say("Export it for every runtime, and compare each with a float64 forward pass.")
    _run("export", trained, "--out", release, "--jobs", jobs)

    _say("Ask it about sentences that it has not seen.")
    _run("fill-mask", release / "onnx-int8", read_questions()[0][0], "--top-k", "3")
    _ask(release)
    print(f"\n{monotonic() - began:.0f} s. Ask it more: yizhi fill-mask {release}/onnx-int8 'SENTENCE WITH [MASK]'")


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    print(f"$ yizhi {shlex.join(words)}", flush=True)
    if main(words):
        raise CheckFailed(f"yizhi {words[0]} failed")


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _ask(release: Path) -> None:
    questions = read_questions()
    answers = {}
    for target in ("onnx", "onnx-int8"):
        with open_runtime(release / target) as model:
            fill = FillMask(model, top_k=1)
            answers[target] = [fill(question)[0][0] for question, _ in questions]
    print("\nfloat32    int8       sentence")
    for (question, answer), one, other in zip(questions, *answers.values(), strict=True):
        marks = [f"{found.token} {found.score:.3f}{' ' if found.token == answer else '✗'}" for found in (one, other)]
        print(f"{marks[0]}  {marks[1]}  {question.replace('[MASK]', f'【{answer}】')}")
    right = {
        target: sum(found.token == answer for found, (_, answer) in zip(given, questions, strict=True))
        for target, given in answers.items()
    }
    print(", ".join(f"{target}: {count} of {len(questions)} right" for target, count in right.items()))
    poor = [target for target, count in right.items() if count < ENOUGH * len(questions)]
    if poor:
        raise CheckFailed(f"{', '.join(poor)}: expected {ENOUGH:.0%} of the questions answered, or more")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m yizhi.demo", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="where to train (default: build/demo)")
    parser.add_argument("--out", type=Path, default=Path("dist/demo"), help="the release (default: dist/demo)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training (default: {STEPS})")
    parser.add_argument("--jobs", type=int, default=2, help="exports at a time (default: 2)")
    return parser.parse_args()


if __name__ == "__main__":
    options = _parse()
    try:
        demo(options.work, options.out, options.steps, options.jobs)
    except CheckFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        sys.exit(1)
