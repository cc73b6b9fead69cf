"""golden/: the cases' inputs with the oracle's outputs, shipped inside the release.

Outputs are rounded from float64 to float32, which moves them by at most 6e-8 of their value: a
hundredth of the strictest tolerance. Vocabulary logits are kept at each case's `logit_positions`.
"""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from yizhi.errors import InputError
from yizhi.model.spec import (
    IMAGE_INPUTS,
    IMAGE_PREFIX,
    LOGITS_AT,
    MATCH_LOGITS,
    REGION_LOGITS,
    SENTENCE_EMBEDDING,
    STEP,
    TERM_WEIGHTS,
    TEXT_INPUTS,
    TOKEN_WEIGHTS,
    EncoderSpec,
    MaskedLMHead,
    Norm,
)
from yizhi.parity.answers import make_answers
from yizhi.parity.cases import IMAGE, PAIR, POSITION, REGION, ROW, TOKEN, Case, make_cases
from yizhi.parity.numbers import summarize
from yizhi.parity.pace import Counter, Tell, tell_nobody
from yizhi.parity.texts import TextContract, make_contract
from yizhi.parity.weights import TensorDigest, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.schema import find_violations
from yizhi.runtimes.base import Inputs
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.codec import from_plain, to_plain
from yizhi.storage.json_files import read_json_object, to_json

CASES = "cases.json"
ARRAYS = "golden.safetensors"
SCHEMA = "cases.v1"
# Of the oracle's parameters in float64: all of a BERT-base's, and more where an eighth of the machine's memory is more.
_KEPT_BYTES = max(2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)


@dataclass(frozen=True)
class Golden:
    """The cases, and the oracle's outputs of each for its signatures: `reference[case name][output]`.

    per: the unit that each output has one vector for. sums: outputs whose error is measured against their vector.
    offsets: [H] each, for the outputs of a LayerNorm: its offset, or its scale if it has no offset.
    text: the checkpoint's own results for text and labels.
    weights: digests of the checkpoint's tensors, by parameter. `yizhi.parity.weights` compares stored tensors with
    them.
    numbers: summaries of the same tensors, for int8 tensors without the checkpoint at hand.
    """

    cases: list[Case]
    reference: dict[str, dict[str, NDArray[np.float32]]]
    per: dict[str, str]
    sums: list[str]
    offsets: dict[str, NDArray[np.float32]]
    weights: dict[str, TensorDigest]
    numbers: dict[str, NDArray[np.float32]]
    text: TextContract = field(default_factory=TextContract)

    def scale(self, output: str, reference: NDArray) -> NDArray[np.float64]:
        """The size of the numbers that each element of an output was made of. float32's error is proportional to it.

        A sum's error follows the largest element of its vector. A LayerNorm adds an offset, which may cancel most of
        the product before it. The element is then small and its rounding error is not. So both terms count, not their
        sum.
        """
        size = np.abs(reference.astype(np.float64))
        if output == TERM_WEIGHTS:  # log(1 + x) of a logit x, which errs as the largest does: dx / (1 + x)
            return np.expm1(size.max(axis=-1, keepdims=True)) * np.exp(-size)
        if output in self.sums:
            return size.max(axis=-1, keepdims=True)
        if output in self.offsets:
            offset = self.offsets[output].astype(np.float64)
            return np.abs(reference - offset) + np.abs(offset)
        return size

    @classmethod
    def make(cls, checkpoint: Checkpoint, workers: int = 1, tell: Tell = tell_nobody) -> "Golden":
        """Run the oracle on every case, `workers` at once. tell: called after each case."""
        from yizhi.parity import oracle  # needs scipy, which a machine that only verifies does not have
        from yizhi.parity.oracle_runtime import OracleRuntime

        cases = make_cases(checkpoint)
        signatures = {**checkpoint.spec.signatures(), LOGITS_AT: ("logits",), STEP: ("logits",)}
        names = list(dict.fromkeys(name for outputs in checkpoint.spec.signatures().values() for name in outputs))
        parameters = oracle.Parameters(checkpoint, keep=_KEPT_BYTES)

        def run(case: Case) -> dict[str, NDArray[np.float32]]:
            wanted = {name for signature in case.signatures for name in signatures[signature]}
            outputs = oracle.run(checkpoint, case.inputs, wanted, case.logit_positions, parameters)
            return {name: outputs[name].astype(np.float32) for name in names if name in wanted}

        per = {name: _per(checkpoint.spec, name) for name in names}
        sums = [name for name in names if is_sum(checkpoint.spec, name)]
        norms = {name: norm for name in names if (norm := norm_of(checkpoint.spec, name))}
        # What has no offset is w · z of a z that errs near 0 as elsewhere, and w stands in for it.
        offsets = {name: checkpoint.array(norm.bias or norm.weight).astype(np.float32) for name, norm in norms.items()}
        tokenizer = Tokenizer.of(checkpoint.text, checkpoint.config)
        with ThreadPoolExecutor(workers) as pool:
            # The longest first, so that no thread idles at the end.
            answers = pool.submit(make_answers, OracleRuntime(checkpoint, parameters), tokenizer)
            longest_first = sorted(cases, key=lambda case: -case.inputs.input_ids.size)
            running = {case.name: pool.submit(run, case) for case in longest_first}
            by_future = {future: case for case, future in zip(longest_first, running.values(), strict=True)}
            weights, numbers = pool.submit(digest_tensors, checkpoint), pool.submit(summarize, checkpoint)
            counter = Counter(tell, cases)
            for future in as_completed(by_future):
                counter.count(by_future[future])
            reference = {case.name: running[case.name].result() for case in cases}
            contract = make_contract(checkpoint, answers.result())
            return cls(cases, reference, per, sums, offsets, weights.result(), numbers.result(), contract)

    @classmethod
    def read(cls, folder: Path) -> "Golden":
        """Read a release's `golden/`. Raises InputError."""
        description = read_json_object(folder / CASES)
        faults = find_violations(description, SCHEMA)
        if not faults and not description["cases"]:
            faults = ["holds no cases"]
        if faults:
            raise InputError(folder / CASES, faults)
        try:
            arrays = load_file(folder / ARRAYS)
        except OSError as error:
            raise InputError(folder / ARRAYS, f"cannot be read: {error.strerror}") from None
        except SafetensorError as error:
            raise InputError(folder / ARRAYS, str(error)) from None
        names = [
            f"{entry['name']}/{key}" for entry in description["cases"] for key in (*TEXT_INPUTS, *entry["outputs"])
        ]
        names += [f"{kind}/{name}" for kind in ("offsets", "numbers") for name in description[kind]]
        missing = [f"{name}: missing" for name in names if name not in arrays]
        if missing:
            raise InputError(folder / ARRAYS, missing)
        cases, reference = [], {}
        for entry in description["cases"]:
            name = entry["name"]
            image = [key for key in IMAGE_INPUTS if f"{name}/{key}" in arrays]
            inputs = Inputs.of(**{key: arrays[f"{name}/{key}"] for key in (*TEXT_INPUTS, *image)})
            how = (tuple(entry["alone"]), tuple(entry["signatures"]), entry["kind"])
            cases.append(Case(name, entry["catches"], inputs, *how))
            reference[name] = {key: arrays[f"{name}/{key}"] for key in entry["outputs"]}
        offsets = {name: arrays[f"offsets/{name}"] for name in description["offsets"]}
        numbers = {name: arrays[f"numbers/{name}"] for name in description["numbers"]}
        text = from_plain(TextContract, description["text"])
        weights = from_plain(dict[str, TensorDigest], description["weights"])
        return cls(cases, reference, description["per"], description["sums"], offsets, weights, numbers, text)

    def write(self, folder: Path) -> None:
        """Write `cases.json` and `golden.safetensors` into an existing folder."""
        arrays: dict[str, NDArray] = {f"offsets/{name}": array for name, array in self.offsets.items()}
        arrays |= {f"numbers/{name}": array for name, array in self.numbers.items()}
        entries = []
        for case in self.cases:
            reference = self.reference[case.name]
            arrays |= {f"{case.name}/{key}": array for key, array in case.inputs.as_dict(np.int32).items()}
            arrays |= {f"{case.name}/{key}": np.ascontiguousarray(array) for key, array in reference.items()}
            entry = {"name": case.name, "catches": case.catches, "alone": case.alone, "signatures": case.signatures}
            entries.append({**entry, "kind": case.kind, "outputs": list(reference)})
        (folder / ARRAYS).write_bytes(save(arrays))
        description = {
            "schema_version": 1,
            "per": self.per,
            "sums": self.sums,
            "offsets": list(self.offsets),
            "numbers": list(self.numbers),
            "weights": to_plain(self.weights),
            "text": to_plain(self.text),
            "cases": entries,
        }
        (folder / CASES).write_text(to_json(description), encoding="utf-8")


def is_sum(spec: EncoderSpec, output: str) -> bool:
    """Whether an output is a sum without a LayerNorm after it. Its error follows its largest terms."""
    if output == SENTENCE_EMBEDDING:
        return spec.pooling is not None and bool(spec.pooling.dense)
    if output == TOKEN_WEIGHTS:
        return True
    if spec.image and output.startswith(IMAGE_PREFIX):
        return is_sum(spec.of_image, output.removeprefix(IMAGE_PREFIX))
    if output == "pooler_output":
        return spec.pooler is not None and spec.pooler.activation != "tanh"
    if not output.startswith("hidden_states.") and output != "last_hidden_state":
        return output in ("logits", REGION_LOGITS, MATCH_LOGITS)
    after = len(spec.blocks) if output == "last_hidden_state" else int(output.rpartition(".")[2])
    if spec.final_norm is not None:
        return after != len(spec.blocks)
    adapter = spec.blocks[after - 1][-1].output_adapter if after else None
    return adapter is not None and adapter.adds is None


def norm_of(spec: EncoderSpec, output: str) -> Norm | None:
    """The LayerNorm that gives an output, if there is one: scale · normalised + offset."""
    if spec.image and output.startswith(IMAGE_PREFIX):
        return norm_of(spec.of_image, output.removeprefix(IMAGE_PREFIX))
    if output == "last_hidden_state":
        output = f"hidden_states.{len(spec.blocks)}"
    prefix, _, number = output.rpartition(".")
    if prefix != "hidden_states" or is_sum(spec, output):
        return None
    if number == "0":
        return None if spec.embeddings_projection else spec.embeddings_norm
    if int(number) == len(spec.blocks) and spec.final_norm:
        return spec.final_norm
    return spec.blocks[int(number) - 1][-1].output_norm


def _per(spec: EncoderSpec, output: str) -> str:
    if output == "logits" and isinstance(spec.head, MaskedLMHead):
        return POSITION
    if output == MATCH_LOGITS:
        return PAIR
    axes = spec.output_axes(output)
    if "length" in axes or "regions" in axes:
        return TOKEN if "length" in axes else REGION
    return IMAGE if output.startswith(IMAGE_PREFIX) else ROW
