"""Write the SavedModel that `tf.saved_model.load` and TensorFlow Serving open.

Byte-identical exports need a fresh process each: TensorFlow numbers its functions as it makes them.
"""

import tensorflow as tf

from converters.artifact import ArtifactWriter
from converters.checkpoint import Checkpoint
from converters.forwards.tensorflow import Encoder

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `saved_model.pb` and `variables/`, with one signature per group of `EncoderSpec.signatures`.

    Inputs are int32 [batch, length], both dynamic: what clients of transformers' SavedModels send.
    """
    model = Encoder(checkpoint.spec, checkpoint.array)
    inputs = {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in INPUTS}
    signatures = {
        name: _signature(model, name, outputs).get_concrete_function(**inputs)
        for name, outputs in checkpoint.spec.signatures().items()
    }
    tf.saved_model.save(model, str(writer.folder), signatures=signatures)


def _signature(model: Encoder, name: str, outputs: tuple[str, ...]) -> tf.types.experimental.PolymorphicFunction:
    def compute(input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return model(input_ids, attention_mask, token_type_ids, outputs)

    compute.__name__ = name
    return tf.function(compute, autograph=False)
