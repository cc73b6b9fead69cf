"""Write the SavedModel that `tf.saved_model.load` and TensorFlow Serving open.

Byte-identical exports need a fresh process each: TensorFlow numbers its functions as it makes them.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from yizhi.converters.forwards.tensorflow import TensorFlowEncoder
from yizhi.converters.lean_tensorflow import tf
from yizhi.model.layout import transposes
from yizhi.model.spec import FLOAT_INPUTS, LOGITS_AT, POSITIONS, EncoderSpec, MaskedLMHead, Parameter
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `saved_model.pb` and `variables/`, with one signature per group of `EncoderSpec.signatures`.

    Inputs are int32 [batch, length], both dynamic: clients of transformers' SavedModels send these. Those of an image
    stream stand beside them.
    """

    def read(parameter: Parameter) -> tf.Tensor:
        array = checkpoint.array(parameter.name)
        tensor = tf.constant(array.T if transposes(parameter) else array)
        checkpoint.release(parameter.name)  # else the file's pages count beside the copy
        return tensor

    model, specs = TensorFlowEncoder(checkpoint.spec, read), _input_specs(checkpoint.spec)
    groups = checkpoint.spec.signatures()

    # The layers are traced once for these signatures: one trace for each costs a second and a larger file.
    # The heads are traced where they are asked for, so that no signature can ever run them in vain.
    @tf.function(autograph=False)
    def encode(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.encode(given, groups["hidden_states"])

    def signature(name: str) -> tf.types.experimental.ConcreteFunction:
        def compute(**given: tf.Tensor) -> dict[str, tf.Tensor]:
            found = encode(**given)
            found |= model.heads(found, given, groups[name])
            return {output: found[output] for output in groups[name]}

        compute.__name__ = name
        return tf.function(compute, autograph=False).get_concrete_function(**specs)

    signatures = {name: signature(name) for name in groups}
    if isinstance(checkpoint.spec.head, MaskedLMHead):
        signatures[LOGITS_AT] = _logits_at_signature(model, specs)
    tf.saved_model.save(model, str(writer.folder), signatures=signatures)
    _fix_fingerprint(writer.folder / "fingerprint.pb")
    (writer.folder / "assets").rmdir()  # left empty by TensorFlow, and archives would lose it


def _input_specs(spec: EncoderSpec) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(
            [axis if isinstance(axis, int) else None for axis in axes],
            tf.float32 if name in FLOAT_INPUTS else tf.int32,
            name=name,
        )
        for name, axes in spec.input_axes().items()
    }


def _logits_at_signature(
    model: TensorFlowEncoder, specs: Mapping[str, tf.TensorSpec]
) -> tf.types.experimental.ConcreteFunction:
    """The usual inputs and `positions`, int32 [count, 2], to `logits` [count, V]."""

    def logits_at(positions: tf.Tensor, **given: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model.logits_at(given, positions)}

    positions = tf.TensorSpec((None, 2), tf.int32, name=POSITIONS)
    return tf.function(logits_at, autograph=False).get_concrete_function(positions=positions, **specs)


def _fix_fingerprint(path: Path) -> None:
    """Replace the random number in `fingerprint.pb` by one that follows from the hashes beside it."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef  # not before lean_tensorflow

    fingerprint = FingerprintDef.FromString(path.read_bytes())
    fingerprint.ClearField("uuid")
    digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True)).digest()
    fingerprint.uuid = str(int.from_bytes(digest[:16], "big"))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))
