"""One interface to every artifact: `open_runtime(folder).run(inputs, outputs)`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yizhi.choices import DEVICES, MATH, WASM
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError, NotRun, show
from yizhi.model.architectures import build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.empty_image import no_image
from yizhi.model.spec import LOGITS_AT, STEP, TEXT_INPUTS, EncoderSpec, Pooling
from yizhi.reading.sentence_settings import read_prompts
from yizhi.release.artifact import Artifact
from yizhi.runtimes.image_inputs import read_image
from yizhi.runtimes.past import Past
from yizhi.runtimes.processor import describe_int8_kernels
from yizhi.storage.codec import from_plain

Outputs = dict[str, NDArray[np.float32]]
# The tensors inside a layer that forwards tap as `layers.N.NAME`, in the order they are computed.
TAPS = ("query", "key", "value", "context", "attention_output", "after_attention", "intermediate", "output")


@dataclass(frozen=True)
class Inputs:
    """A batch of token ids: three int64 arrays [B, T]; and of an image for each row, if the model has an image stream.

    attention_mask: 1 for a token, 0 for padding; ones when left out.
    token_type_ids: 0 for the first segment, 1 for the second; zeros when left out.
    image_features: what describes each region of the row's image, float32 [B, R, F].
    image_boxes: where the regions are, float32 [B, R, 5]: x1 / width, y1 / height, x2 / width, y2 / height, and the
    region's share of the image's area.
    image_mask: int64 [B, R]: 1 for a region, 0 for padding; ones when left out.
    The three are None for text alone, and where R is 0.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    image_features: NDArray[np.float32] | None = None
    image_boxes: NDArray[np.float32] | None = None
    image_mask: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        image_features: ArrayLike | None = None,
        image_boxes: ArrayLike | None = None,
        image_mask: ArrayLike | None = None,
    ) -> Self:
        """Fill in omitted arrays. Raises InputError unless all have their kind of numbers and their shape."""
        image = {"image_features": image_features, "image_boxes": image_boxes, "image_mask": image_mask}
        optional = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, **image}
        chosen = {name: array for name, array in optional.items() if array is not None}
        read = _read_arrays({"input_ids": input_ids, **chosen})
        ids = read["input_ids"]
        given = {
            "input_ids": ids,
            "attention_mask": read.get("attention_mask", np.ones_like(ids)),
            "token_type_ids": read.get("token_type_ids", np.zeros_like(ids)),
        }
        faults = []
        for name, array in given.items():
            if array.dtype.kind not in "iub":
                faults.append(f"{name}: expected integers; found {array.dtype}")
            if array.ndim != 2 or 0 in array.shape:
                faults.append(f"{name}: expected a non-empty [batch, length]; found {list(array.shape)}")
            elif array.shape != ids.shape:
                faults.append(f"{name}: expected the shape of input_ids, {list(ids.shape)}; found {list(array.shape)}")
        regions = read_image({name: read.get(name) for name in image}, len(ids) if ids.ndim else 0, faults)
        if faults:
            raise InputError("inputs", faults)
        # Copies: the one row of a reversed array counts as contiguous, with a stride that torch refuses.
        tokens: dict[str, Any] = {name: np.array(array, np.int64, order="C") for name, array in given.items()}
        return cls(**tokens, **regions)

    def check(self, config: EncoderConfig, tokens: int | None = None) -> None:
        """Raise InputError for ids and lengths that this encoder has no parameters for. JAX would clamp them silently.

        tokens: the size of the vocabulary, if the embeddings have more rows.
        """
        limits = {
            "input_ids": tokens or config.vocab_size,
            "attention_mask": 2,
            "token_type_ids": config.type_vocab_size,
        }
        faults = []
        for name, limit in limits.items():
            array = getattr(self, name)
            bad = np.argwhere((array < 0) | (array >= limit))
            if len(bad):
                row, column = bad[0]
                faults.append(
                    f"{name}: expected 0 … {limit - 1}; found {array[row, column]} at row {row}, position {column}"
                    + (f", and {len(bad) - 1} more" if len(bad) > 1 else "")
                )
        length = self.input_ids.shape[1]
        if length > config.longest:
            faults.append(f"input_ids: expected at most {config.longest} tokens a row; found {length}")
        if self.image_features is not None:
            found = self.image_features.shape[2]
            if config.image is None:
                faults.append("image_features: expected none, because this model reads text alone")
            elif found != config.image.features:
                faults.append(f"image_features: expected {config.image.features} numbers a region; found {found}")
        if faults:
            raise InputError("inputs", faults)

    def complete(self, config: EncoderConfig) -> "Inputs":
        """With the image that a model with an image stream needs: one masked region in each row of text alone."""
        if config.image is None or self.image_features is not None:
            return self
        return replace(self, **no_image(config.image, len(self.input_ids)))

    def rows(self, which: slice, length: int | None = None) -> "Inputs":
        """These rows, and of their tokens the first `length`. Their regions stay, padding included."""
        cut = {name: array[which] for name, array in self.as_dict().items()}
        cut |= {name: cut[name][:, :length] for name in TEXT_INPUTS}
        return Inputs.of(**cut)

    def as_dict(self, dtype: type[np.integer] = np.int64) -> dict[str, NDArray]:
        """The arrays that there are, by name; those of integers as `dtype`."""
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: array if array.dtype == np.float32 else array.astype(dtype, copy=False)
            for name, array in arrays.items()
            if array is not None
        }


class Runtime:
    """An opened artifact. `open_runtime` gives it.

    Thread safety: several threads may call `run` at once. `math` is a setting of the whole process: two runtimes of one
    framework in one process must not differ in `math`.

    Subclasses have `_open`, `_run`, `_logits_at`, `_step_after` where their target has one and, if needed, `close`.
    """

    # Of MATH, what this framework can do on each device.
    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict",), "cuda": ("strict",)}

    def __init__(
        self, artifact: Artifact, *, device: str = "cpu", threads: int | None = None, math: str = "strict"
    ) -> None:
        """Keep the settings of `open`. Nothing is loaded yet."""
        self.math = math
        self.artifact = artifact
        self.config = EncoderConfig.read(artifact.folder / "config.json")
        self.device = device
        self.threads = threads

    @classmethod
    def open(cls, artifact: Artifact, *, device: str = "cpu", threads: int | None = None, math: str = "strict") -> Self:
        """Open the artifact on `cpu`, `cuda` or `wasm`, with this number of CPU threads (None: the framework's choice).

        math: one of MATH. Raises NotRun if this machine lacks the device, or the device cannot do `math`.
        """
        # No framework here multiplies int8 on a GPU.
        tiers = () if device == "cuda" and TARGETS[artifact.target].precision == "int8" else cls.tiers[device]
        if math not in tiers:
            raise NotRun("`math`", f"no {math} for {artifact.target} on {device}: it has {', '.join(tiers) or 'none'}")
        runtime = cls(artifact, device=device, threads=threads, math=math)
        runtime._open()
        return runtime

    @property
    def pooling(self) -> Pooling | None:
        """How the artifact makes `sentence_embedding` or `term_weights`; None if it has neither."""
        found = self.artifact.description.get("pooling")
        return from_plain(Pooling, found) if found else None

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's own prompts by name: texts to put before a text that becomes a vector. Raises InputError."""
        return read_prompts(self.artifact.folder)

    @property
    def signatures(self) -> Mapping[str, Sequence[str]]:
        """Named groups of outputs. `hidden_states` has every layer."""
        return self.artifact.signatures

    @property
    def outputs(self) -> tuple[str, ...]:
        """Every output that this artifact computes."""
        return tuple(dict.fromkeys(name for names in self.signatures.values() for name in names))

    def run(self, inputs: Inputs | Mapping[str, ArrayLike], outputs: Sequence[str] | None = None) -> Outputs:
        """Compute the named outputs as float32 arrays. Without names: the outputs of `serving_default`.

        `logits` [B, T, V], `last_hidden_state` and `hidden_states.N` [B, T, H], `pooler_output` [B, H],
        `sentence_embedding` [B, D], `term_weights` [B, V], `token_weights` [B, T] and `token_vectors` [B, T, D]; with
        an image stream `image_last_hidden_state` and `image_hidden_states.N` [B, R, H], `image_pooler_output` [B, P],
        `region_logits` [B, R, C] and `match_logits` [B, 2]. In a row without an image, these are finite and mean
        nothing.
        Raises InputError for ids out of range, for rows that are too long, and for an output that the artifact does not
        have.
        """
        inputs = self._check(inputs)
        wanted = tuple(outputs or self.signatures["serving_default"])
        unknown = [name for name in wanted if name not in self.outputs]
        if unknown:
            raise InputError("outputs", f"{', '.join(unknown)}: not computed here; known: {', '.join(self.outputs)}")
        computed = self._run(inputs, wanted)
        forgotten = [name for name in wanted if name not in computed]
        if forgotten:
            raise RuntimeError(f"{type(self).__name__} did not compute {', '.join(forgotten)}")
        return {name: computed[name] for name in wanted}

    def logits_at(self, inputs: Inputs | Mapping[str, ArrayLike], positions: ArrayLike) -> NDArray[np.float32]:
        """Vocabulary logits, float32 [N, V], at (row, position) pairs, integers [N, 2]. They equal the logits of `run`.

        The last layer's feed-forward and the head compute nothing for other tokens. Raises InputError as `run` does,
        for positions outside the inputs, and for an artifact without this signature.
        """
        if LOGITS_AT not in self.artifact.description:
            if self.artifact.description["task"] == "fill-mask":
                raise InputError(self.artifact.folder, f"has no {LOGITS_AT}: an older version made it; export it again")
            raise InputError(self.artifact.folder, "has no masked-language-model head")
        inputs = self._check(inputs)
        return self._logits_at(inputs, _check_positions(positions, inputs.input_ids.shape))

    def step(self, inputs: Inputs | Mapping[str, ArrayLike], past: Past | None = None) -> tuple[Outputs, Past]:
        """Read S tokens of each row after those of `past`. Gives `logits` [B, S, V], and the past of all P + S tokens.

        The logits equal those of `run` for the whole rows. Pad shorter rows on the left of the first piece: a row's
        next tokens then stand in the same columns as the others'. inputs: of the new tokens alone, [B, S]; `past`
        remembers the mask of those before. Token j is at position P + j, whatever the mask says, as in `run`.
        past: None before the first piece. It does not change; several steps may follow one.
        Raises InputError as `run` does, for a past that does not fit, and for an artifact that has no step.
        """
        described = self.artifact.description.get(STEP)
        if described is None:
            raise InputError(self.artifact.folder, self._why_no_step())
        inputs = self._check(inputs)
        batch, length = inputs.input_ids.shape
        source = self.artifact.description["source"]
        past = Past.empty(batch, described, source) if past is None else past
        if not isinstance(past, Past):
            raise InputError("past", f"expected the Past of a step, or None; found {type(past).__name__}")
        faults = list(past.find_faults(batch, described, source))
        if faults:
            raise InputError("past", faults)
        longest, before = self.config.longest, past.attention_mask.shape[-1]
        if before + length > longest:
            raise InputError(
                "past", f"expected at most {longest} tokens a row; found {before} before, and {length} more"
            )
        attention_mask = np.concatenate((past.attention_mask, inputs.attention_mask), axis=1)
        logits, *arrays = self._step_after(inputs.input_ids, attention_mask, past)
        return {"logits": logits}, past.followed(attention_mask, arrays)

    def _why_no_step(self) -> str:
        if self.artifact.description["task"] != "text-generation":
            return "has no step with a cache: it is no causal language model"
        target = TARGETS.get(self.artifact.target)
        if target and target.steps:
            return f"has no {STEP}: an older version made it; export it again"
        known = ", ".join(name for name, target in TARGETS.items() if target.steps)
        return f"has no step with a cache; targets that have one: {known}"

    def signature_for(self, outputs: Sequence[str]) -> str:
        """The smallest signature that has all these outputs. Raises InputError if no signature has all of them."""
        fitting = [name for name, has in self.signatures.items() if set(outputs) <= set(has)]
        if not fitting:
            raise InputError("outputs", f"no signature computes {', '.join(outputs)} together")
        return min(fitting, key=lambda name: len(self.signatures[name]))

    def forget(self, signature: str) -> None:
        """Free the memory that only this signature uses. The signature loads again when it is needed."""

    def settings(self) -> dict[str, str]:
        """How this process computes, as read back from the framework."""
        return {}

    def find_fallbacks(self, inputs: Inputs) -> list[str]:
        """What ran on another device than the requested one, a line each. Empty if nothing did."""
        return []

    def find_disagreements(self, inputs: Inputs) -> list[str]:
        """If an artifact has several ways to one result: how the results differ, a line each."""
        return []

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """The integer sums of a quantized artifact's kernels for given rows, for each way of multiplying."""
        return {}

    def describe_int8_kernels(self) -> str:
        """The instruction set that multiplies int8 here, such as `avx512_vnni`."""
        return describe_int8_kernels()

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """The TAPS inside one layer that this artifact can show, [B, T, …] each. For debugging: slow."""
        return {}

    def _check(self, inputs: Inputs | Mapping[str, ArrayLike]) -> Inputs:
        if not isinstance(inputs, Inputs):
            unknown = set(inputs) - set(Inputs.__dataclass_fields__)
            if unknown or "input_ids" not in inputs:
                raise InputError("inputs", f"expected {', '.join(Inputs.__dataclass_fields__)}; found {sorted(inputs)}")
            inputs = Inputs.of(**inputs)
        inputs.check(self.config, self.artifact.description.get("tokens"))
        return inputs.complete(self.config)

    def build_spec(self, names: Collection[str]) -> EncoderSpec:
        """The spec of an artifact that holds these parameters."""
        return replace(build_spec(self.config, names), pooling=self.pooling)

    def _open(self) -> None:
        raise NotImplementedError

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        raise NotImplementedError

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _step_after(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], past: Past
    ) -> Sequence[NDArray[np.float32]]:
        """Logits [B, S, V], then the `arrays` of the next past. attention_mask: [B, P + S]."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the framework holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_arrays(given: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Each as an array. Raises InputError naming each whose rows differ in length."""
    read: dict[str, NDArray[Any]] = {}
    faults: list[str] = []
    for name, array in given.items():
        try:
            read[name] = np.asarray(array)
        except ValueError:
            faults.append(f"{name}: expected rows of one length: pad the shorter ones")
    if faults:
        raise InputError("inputs", faults)
    return read


def _check_positions(positions: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Raise InputError unless all are (row, position) pairs inside a batch of this shape. JAX would clamp them."""
    found = _read_arrays({"positions": positions})["positions"]
    if found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise InputError("positions", f"expected integers, one or more [row, position]; found {show(found.tolist())}")
    outside = found[((found < 0) | (found >= shape)).any(axis=1)]
    if len(outside):
        raise InputError(
            "positions",
            f"expected rows 0 … {shape[0] - 1} and positions 0 … {shape[1] - 1}; found {outside[0].tolist()}"
            + (f", and {len(outside) - 1} more" if len(outside) > 1 else ""),
        )
    return np.array(found, np.int64, order="C")  # a copy, as in `Inputs.of`


def open_runtime(
    artifact: str | Path, *, device: str = "cpu", threads: int | None = None, math: str = "strict"
) -> Runtime:
    """Open an artifact folder with the framework that it was made for.

    device: `cpu`, `cuda` or `wasm`. threads: CPU threads; None for the framework's choice. math: one of MATH.
    Raises InputError if the folder is not an artifact. Raises NotRun if this machine lacks the framework or the device,
    or the device cannot do `math`.
    """
    opened = Artifact.read(artifact)
    if opened.target not in TARGETS:
        raise InputError(opened.folder, f"target: expected one of {', '.join(TARGETS)}; found {opened.target!r}")
    if device not in (*DEVICES, WASM):
        raise InputError("`device`", f"expected {', '.join(DEVICES)} or {WASM}; found {device!r}")
    if math not in MATH:
        raise InputError("`math`", f"expected one of {', '.join(MATH)}; found {math!r}")
    return (
        TARGETS[opened.target]
        .load_runtime(in_browser=device == WASM)
        .open(opened, device=device, threads=threads, math=math)
    )
