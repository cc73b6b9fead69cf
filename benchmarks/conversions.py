"""One conversion in a process of its own: ours or a peer's, in whichever venv has what it needs.

    python -m benchmarks.conversions KIND SOURCE OUT

`optimum-cli` is a command already, and needs nothing here.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

CALIBRATION_ROWS = 32


def yizhi(source: Path, out: Path, target: str) -> None:
    """All that `yizhi export` does for one target except verification: checks, hashes, the artifact on the disk."""
    from yizhi.converters.targets import TARGETS
    from yizhi.pipeline.export import describe_artifact, describe_source
    from yizhi.pipeline.steps import Convert
    from yizhi.pipeline.worker import leave
    from yizhi.reading.checkpoint import Checkpoint

    with Checkpoint.open(source) as checkpoint:
        digest = describe_source(checkpoint, None)["files"]
        description = describe_artifact(TARGETS[target], checkpoint, digest)
    Convert(source, target, out, description).run(threads=1)
    leave()


def transformers_tensorflow(source: Path, out: Path) -> None:
    """A SavedModel by transformers."""
    from transformers import TFAutoModelForMaskedLM

    from benchmarks.tensorflow_peer import mend_loader

    mend_loader()
    TFAutoModelForMaskedLM.from_pretrained(source).save_pretrained(out, saved_model=True)


def transformers_flax(source: Path, out: Path) -> None:
    """A msgpack by transformers."""
    from transformers import FlaxAutoModelForMaskedLM

    FlaxAutoModelForMaskedLM.from_pretrained(source, from_pt=True).save_pretrained(out)


def litert_torch(source: Path, out: Path) -> None:
    """A .tflite file by litert-torch, which traces transformers' model for one row of 128 tokens."""
    import litert_torch
    import torch
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(source, attn_implementation="eager").eval()
    ids = torch.full((1, 128), 101)
    out.mkdir(parents=True)
    litert_torch.convert(model, (ids, torch.ones_like(ids), torch.zeros_like(ids))).export(str(out / "model.tflite"))


def ctranslate2_int8(source: Path, out: Path) -> None:
    """CTranslate2's own format, with int8 weights; and what our tokenizer reads, for bulk runs."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source)).convert(str(out), quantization="int8", force=True)
    (out / "tokenizer").mkdir()
    for name in ("config.json", "vocab.txt"):
        shutil.copy(source / name, out / "tokenizer" / name)


def openvino_int8(source: Path, out: Path) -> None:
    """optimum's float32 graph, quantized by NNCF for transformers with random rows: its usual way, static."""
    import nncf
    import openvino

    from benchmarks.contestants import make_inputs

    model = openvino.Core().read_model(source / "model.onnx")
    rows = nncf.Dataset([make_inputs(1, 64 + row) for row in range(CALIBRATION_ROWS)])
    quantized = nncf.quantize(model, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_ROWS)
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(quantized, out / "openvino_model.xml", compress_to_fp16=False)


def copy_and_hash(source: Path, out: Path) -> None:
    """Every file below `source`: read once, hashed and written, synced. The least that an export has to do."""
    for path in sorted(file for file in source.rglob("*") if file.is_file()):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(path, "rb") as reader, open(target, "wb") as writer:
            while block := reader.read(1 << 20):
                digest.update(block)
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())


KINDS: Mapping[str, Callable[[Path, Path], None]] = {
    **{
        f"yizhi-{target}": partial(yizhi, target=target)
        for target in (
            *("pytorch", "tensorflow", "flax", "onnx", "onnx-int8"),
            *("openvino", "openvino-int8", "litert", "litert-int8"),
        )
    },
    "tensorflow": transformers_tensorflow,
    "flax": transformers_flax,
    "litert-torch": litert_torch,
    "ctranslate2": ctranslate2_int8,
    "openvino": openvino_int8,
    "copy": copy_and_hash,
}


def main() -> None:
    """Do one, into an empty place."""
    kind, source, out = sys.argv[1:]
    shutil.rmtree(out, ignore_errors=True)
    KINDS[kind](Path(source), Path(out))


if __name__ == "__main__":
    main()
