"""Google's TF1 checkpoints (BERT and ALBERT), and the variables of the SavedModels that Yizhi exports."""

import re
from functools import partial
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place, Rule
from yizhi.reading.importers.opened import GOOGLE, Opened, refuse_brightmart
from yizhi.reading.importers.tensor_bundle import TensorBundle

_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

_IGNORED = (
    (re.compile(r".+/(adam_[mv]|lamb_[mv]|Adam(_1)?|Momentum)"), "an optimizer's slot"),
    (re.compile(r"(.+/)?(global_step|beta[12]_power|good_steps|bad_steps|(current_)?loss_scale)"), "training state"),
    (re.compile(r"_CHECKPOINTABLE_OBJECT_GRAPH|save_counter/.*"), "TensorFlow's own record of its objects"),
)

# The last part of a Google name -> (ours, whether it is stored the other way round). `output_weights`, which
# google-research/bert's run_pretraining.py multiplies with transpose_b, is [outputs, inputs] already.
_LEAVES = {
    "kernel": ("weight", True),
    "bias": ("bias", False),
    "gamma": ("weight", False),
    "beta": ("bias", False),
    "output_weights": ("weight", False),
    "output_bias": ("bias", False),
}

# Module of google-research/bert's modeling.py, and run_pretraining.py -> canonical module, before `/` becomes `.`.
BERT_MODULES = ((r"bert/encoder/layer_(\d+)/", r"bert/encoder/layer/\1/"),)

# The same for google-research/albert, whose attention norm is the block's first LayerNorm.
ALBERT_MODULES = (
    (
        r"bert/encoder/transformer/group_(\d+)/inner_group_(\d+)/",
        r"albert/encoder/albert_layer_groups/\1/albert_layers/\2/",
    ),
    (r"/attention_1/self/", "/attention/"),
    (r"/attention_1/output/dense$", "/attention/dense"),
    (r"(/albert_layers/\d+)/LayerNorm$", r"\1/attention/LayerNorm"),
    (r"(/albert_layers/\d+)/LayerNorm_1$", r"\1/full_layer_layer_norm"),
    (r"/ffn_1/intermediate/dense$", "/ffn"),
    (r"/ffn_1/intermediate/output/dense$", "/ffn_output"),
    (r"^bert/pooler/dense$", "albert/pooler"),
    (r"^bert/", "albert/"),
    (r"^cls/predictions/transform/", "predictions/"),
    (r"^cls/predictions$", "predictions"),
    (r"^cls/seq_relationship$", "sop_classifier/classifier"),
)


def open_checkpoint(path: Path) -> Opened:
    """Open a TF1 checkpoint by its `.index` file. Raises InputError."""
    bundle = TensorBundle(path)
    is_albert = any(name.startswith("bert/encoder/transformer/group_") for name in bundle.entries)
    modules = ALBERT_MODULES if is_albert else BERT_MODULES
    weights = _place(bundle, lambda tensor: place_google_name(tensor, modules))
    return Opened(f"Google TF1 checkpoint ({'ALBERT' if is_albert else 'BERT'})", [weights], GOOGLE)


def open_saved_model(path: Path) -> Opened:
    """Open the variables of a SavedModel by its `saved_model.pb`, which itself is not read. Raises InputError."""
    bundle = TensorBundle(path.with_name("variables") / "variables.index")
    return Opened("SavedModel", [_place(bundle, place_object_name)])


def _place(bundle: TensorBundle, rule: Rule) -> ForeignWeights:
    try:
        refuse_brightmart(bundle.path, bundle.entries)
        tensors = [
            ForeignTensor(entry.name, entry.dtype, entry.shape, partial(bundle.read, entry.name))
            for entry in bundle.entries.values()
        ]
        return ForeignWeights(bundle.path, tensors, rule, bundle.close)
    except InputError:
        bundle.close()
        raise


def place_google_name(
    tensor: ForeignTensor, modules: tuple[tuple[str, str], ...] = BERT_MODULES
) -> Place | Ignored | None:
    """`bert/encoder/layer_0/attention/self/query/kernel` -> `bert.encoder.layer.0.attention.self.query.weight`."""
    ignored = _find_ignored(tensor.name)
    if ignored:
        return ignored
    module, _, leaf = tensor.name.rpartition("/")
    is_table = leaf in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    if leaf not in _LEAVES and not is_table:
        return None
    for pattern, replacement in modules:
        module = re.sub(pattern, replacement, module)
    leaf, transpose = (f"{leaf}/weight", False) if is_table else _LEAVES[leaf]
    return Place(f"{module}/{leaf}".replace("/", "."), transpose)


def place_object_name(tensor: ForeignTensor) -> Place | Ignored | None:
    """The path that leads to a variable in a saved module: our own modules spell the canonical name.

    A kernel that is stored transposed is called so (`yizhi.model.layout.tensorflow_name`).
    """
    ignored = _find_ignored(tensor.name)
    if ignored or not tensor.name.endswith(_OBJECT_SUFFIX):
        return ignored
    name = tensor.name.removesuffix(_OBJECT_SUFFIX).replace("/", ".")
    module, _, leaf = name.rpartition(".")
    return Place(f"{module}.weight", transpose=True) if leaf == "kernel" else Place(name)


def _find_ignored(name: str) -> Ignored | None:
    return next((Ignored(reason) for pattern, reason in _IGNORED if pattern.fullmatch(name)), None)
