"""ONNX artifacts, fp32 and int8, run by ONNX Runtime. Needs no onnx."""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from yizhi.converters.onnx_files import OLDEST_RUNTIME, U8S8, U8U8, graph_file, step_feeds, step_outputs
from yizhi.converters.quantize import INTEGERS
from yizhi.errors import InputError, NotRun
from yizhi.model.spec import COLUMNS, LOGITS_AT, POSITIONS, STEP
from yizhi.runtimes.base import Inputs, Outputs, Runtime
from yizhi.runtimes.memory import return_freed
from yizhi.runtimes.onnx_placement import find_misplaced
from yizhi.runtimes.onnx_products import adds_signed_exactly
from yizhi.runtimes.past import Past

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """One session per signature, opened on first use.

    ONNX Runtime computes every output of a graph, requested or not. So each signature is a graph of its own. Sessions
    share the pages of the weight file, but each keeps its own kernels, packed for its matrix products. Without packing,
    short inputs take 30 % longer.
    """

    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict",), "cuda": ("strict", "tf32")}

    def _open(self) -> None:
        found = onnxruntime.__version__
        if tuple(map(int, found.split(".")[:2])) < OLDEST_RUNTIME:
            oldest = ".".join(map(str, OLDEST_RUNTIME))
            raise InputError("onnxruntime", f"expected version {oldest} or newer; found {found}")
        if self.device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
            raise NotRun("`device` cuda", "ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu")
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._opening = threading.Lock()
        fast = (self.artifact.folder / graph_file("serving_default", U8S8)).exists()
        self._products = U8S8 if fast and self.device == "cpu" and adds_signed_exactly() else U8U8

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        session = self._session(self.signature_for(outputs))
        return dict(zip(outputs, session.run(outputs, inputs.as_dict()), strict=True))

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._session(LOGITS_AT).run(["logits"], {**inputs.as_dict(), POSITIONS: positions})[0]

    def _step_after(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], past: Past
    ) -> Sequence[NDArray[np.float32]]:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self._session(STEP).run(step_outputs(len(past.layers)), feeds | step_feeds(past.arrays))

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """TAPS by the names of the graph's nodes, where onnx is installed to expose them."""
        from yizhi.runtimes.onnx_taps import expose

        exposed = expose(self.artifact.folder, self.config, layer)
        if exposed is None:
            return {}
        graph, names = exposed
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.artifact.folder)
        )
        session = self._start(graph, options)
        rows = session.run(list(names.values()), inputs.as_dict())  # [B·T, width] each, or [B·(R + T), width]
        batch, length = inputs.input_ids.shape
        return {
            tap: array.reshape(batch, len(array) // batch, -1)[:, -length:]
            for tap, array in zip(names, rows, strict=True)
        }

    def _session(self, signature: str) -> onnxruntime.InferenceSession:
        with self._opening:
            if signature not in self._sessions:
                self._sessions[signature] = self._start(self._graph(signature), self._options())
                if self._products == U8U8 and self.artifact.description["precision"] == "int8":
                    return_freed()  # the kernels were turned unsigned, and then packed: two copies are free again
            return self._sessions[signature]

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or 0  # 0: one per core
        return options

    def _graph(self, signature: str) -> Path:
        return self.artifact.folder / graph_file(signature, self._products)

    def _start(self, graph: Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        """Raises NotRun if ONNX Runtime falls back to another device. By itself, it only warns."""
        if self.device == "cpu":
            return onnxruntime.InferenceSession(graph, options, providers=[_CPU])
        tf32 = {"use_tf32": str(int(self.math == "tf32"))}
        session = onnxruntime.InferenceSession(graph, options, providers=[(_CUDA, tf32), _CPU])
        if session.get_providers()[0] != _CUDA:
            raise NotRun("`device` cuda", f"ONNX Runtime could not start CUDA and uses {session.get_providers()[0]}")
        session.disable_fallback()
        return session

    def settings(self) -> dict[str, str]:
        """The providers of a session, in order, and whether CUDA's may use TF32."""
        session = self._session(next(iter(self.signatures)))  # the one that verification begins with
        found = {"providers": ", ".join(session.get_providers())}
        options = session.get_provider_options().get(_CUDA, {})
        if self.artifact.description["precision"] == "int8":
            found["products"] = self._products
        return found | {key: options[key] for key in ("use_tf32", "device_id") if key in options}

    def profile(self, inputs: Inputs, folder: Path) -> Path:
        """Run every output once with ONNX Runtime's profiler on; the profile it wrote into this folder."""
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
        session = self._start(self._graph("hidden_states"), options)
        session.run(None, inputs.as_dict())
        return Path(session.end_profiling())

    def find_fallbacks(self, inputs: Inputs) -> list[str]:
        """Nodes that the profile shows elsewhere."""
        with tempfile.TemporaryDirectory() as folder:
            return find_misplaced(self.profile(inputs, Path(folder)), {"cpu": _CPU, "cuda": _CUDA}[self.device])

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """By products, what each graph that is exact here sums for uint8 rows [N, widest]: NAME.sums [N, outputs]."""
        found = {}
        for products in (U8U8, U8S8) if adds_signed_exactly() else (U8U8,):
            session = self._start(self.artifact.folder / graph_file(INTEGERS, products), self._options())
            names = [output.name for output in session.get_outputs()]
            found[products] = dict(zip(names, session.run(names, {"rows": rows}), strict=True))
        return found

    def find_disagreements(self, inputs: Inputs) -> list[str]:
        """Outputs that must be bit for bit the same, and are not.

        The graphs of both kinds of products do the same arithmetic. Some columns of `logits` are also outputs of their
        own.
        """
        lines = self._find_wrong_columns(inputs)
        if self._products == U8U8:
            return lines
        for signature, feeds, names in self._plan_comparisons(inputs):
            other = self._start(self.artifact.folder / graph_file(signature), self._options())
            theirs = other.run(names, feeds)
            ours = self._session(signature).run(names, feeds)
            lines += [
                f"{graph_file(signature)}: {name} differs from that of {graph_file(signature, U8S8)}"
                for name, one, another in zip(names, ours, theirs, strict=True)
                if not np.array_equal(one, another)
            ]
            self.forget(signature)
        return lines

    def _plan_comparisons(self, inputs: Inputs) -> Iterator[tuple[str, dict[str, NDArray], list[str]]]:
        """Each graph that comes in both kinds, by signature, with its inputs and the names of its outputs."""
        for signature, names in self.signatures.items():
            yield signature, inputs.as_dict(), list(names)
        if LOGITS_AT in self.artifact.description:
            positions = np.argwhere(inputs.attention_mask == 1)[::-1]
            yield LOGITS_AT, {**inputs.as_dict(), POSITIONS: np.ascontiguousarray(positions)}, ["logits"]
        described = self.artifact.description.get(STEP)
        if described:
            half = inputs.input_ids.shape[1] // 2
            ids, mask = inputs.input_ids, inputs.attention_mask
            past = self.step(Inputs.of(ids[:, :half], mask[:, :half]), None)[1]
            feeds: dict[str, NDArray] = {"input_ids": ids[:, half:], "attention_mask": mask}
            yield STEP, feeds | step_feeds(past.arrays), list(step_outputs(described["layers"]))

    def _find_wrong_columns(self, inputs: Inputs) -> list[str]:
        columns: dict[str, int] = self.artifact.description.get(COLUMNS, {})
        if not columns:
            return []
        lines = []
        for products in dict.fromkeys((U8U8, self._products)):  # others open the first, whatever we open
            name = graph_file("serving_default", products)
            session = self._start(self.artifact.folder / name, self._options())
            missing = columns.keys() - {output.name for output in session.get_outputs()}
            if missing:
                lines.append(f"{name}: lacks the output {', '.join(sorted(missing))}")
                continue
            logits, *found = session.run(["logits", *columns], inputs.as_dict())
            lines += [
                f"{name}: {output} is not logits[..., {column}]"
                for (output, column), array in zip(columns.items(), found, strict=True)
                if not np.array_equal(array, logits[..., column])
            ]
        return lines

    def forget(self, signature: str) -> None:
        """Close the signature's session: its kernels take as much memory as the weights."""
        with self._opening:
            self._sessions.pop(signature, None)

    def close(self) -> None:
        """Close every session. A running session ends first."""
        self._sessions.clear()
