"""A mistake made in a forward and copied into the oracle would pass every gate: the oracle has a text of its own."""

import ast
import difflib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.checkpoints import write_variant
from yizhi.converters import forwards
from yizhi.parity import oracle
from yizhi.parity.cases import make_cases
from yizhi.reading.checkpoint import Checkpoint

FORWARDS = Path(forwards.__file__).parent
NAMES = ("pytorch", "tensorflow", "flax", "onnx", "openvino")
# A function shorter than this is one formula, and there is one way to write it down.
SHORT = 100
# Copied text had 0.9 to 1.0; texts written on their own have up to 0.74.
ALIKE = 0.8

# Mistakes in a forward, as edits of its text: what an edit of "all places" would do to the oracle, too.
EDITS = {
    "the wrong LayerNorm": (
        "bert",
        "add_and_norm(p, layer.output_norm,",
        "add_and_norm(p, layer.attention_norm,",
    ),
    "the wrong LayerNorm before": (
        "megatron-bert",
        "feed_forward(p, layer, layer_norm(p, layer.output_norm, x))",
        "feed_forward(p, layer, layer_norm(p, layer.attention_norm, x))",
    ),
    "no residual": ("bert", "return layer_norm(p, norm, x + y)", "return layer_norm(p, norm, y)"),
    "no activation": (
        "bert",
        "    else:\n        x = activation(x)\n",
        "",
    ),
    "the gate activated": ("modernbert", "activation(x) * gate", "x * activation(gate)"),
    "pairs turned the wrong way": (
        "roformer",
        "a * cos - b * sin, b * cos + a * sin",
        "a * cos + b * sin, b * cos - a * sin",
    ),
    "the window of no layer": ("modernbert", "p.mask if layer.window is None else p.windows[layer.window]", "p.mask"),
    "the adapter's residual twice": (
        "bert-norm_of_residual",
        "return z if part.residual_in_norm else z + residual",
        "return z + residual",
    ),
    "the adapter's residual from elsewhere": (
        "bert-double_seq_bn",
        "residual = read if part.residual == part.reads else take(part.residual)",
        "residual = x",
    ),
    "a scaling forgotten": (
        "bert-post_add",
        "linear(p, part.up, z) * (",
        "linear(p, part.up, z) + 0 * (",
    ),
    "no position before the text": ("roberta", "* kept + p.spec.padding_idx", "* kept"),
    "distances the other way round": ("nezha", "(places - places[:, None]).clamp", "(places[:, None] - places).clamp"),
    "the pooler's token": ("bert-classifier", "linear(p, dense.linear, x[:, 0])", "linear(p, dense.linear, x[:, 1])"),
}


def read_functions(path):
    """Each function's text without its docstring and annotations, and without the ways to reach a parameter."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            text = "\n".join(ast.unparse(statement) for statement in body)
            found[node.name] = text.replace("p.take(", "").replace("p.parameters[", "p[").replace("(p, ", "(")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_forward_is_the_oracles_text(name):
    ours, theirs = read_functions(Path(oracle.__file__)), read_functions(FORWARDS / f"{name}.py")
    alike = {
        function: difflib.SequenceMatcher(None, ours[function], theirs[function], autojunk=False).ratio()
        for function in ours.keys() & theirs.keys()
        if len(ours[function]) > SHORT
    }
    assert len(alike) >= 6
    assert {function: ratio for function, ratio in alike.items() if ratio > ALIKE} == {}


def load_edited(module, old, new):
    """The module as this edit of its text leaves it, and whether there was anything to edit."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    edited = ModuleType(f"{module.__name__}_edited")
    sys.modules[edited.__name__] = edited  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), module.__file__, "exec"), edited.__dict__)  # noqa: S102 (our own text)
    finally:
        del sys.modules[edited.__name__]
    return edited, old in source


def largest_difference(checkpoint, forward, reference):
    torch = pytest.importorskip("torch")
    tensors = {parameter.name: torch.tensor(checkpoint.array(parameter.name)) for parameter in checkpoint.parameters()}
    encoder = forward.PyTorchEncoder(checkpoint.spec, tensors).double()
    case = make_cases(checkpoint)[3]
    names = {name for names in checkpoint.spec.signatures().values() for name in names}
    with torch.no_grad():
        given = {name: torch.from_numpy(array) for name, array in case.inputs.as_dict().items()}
        found = encoder(**given, outputs=names)
    expected = reference.run(checkpoint, case.inputs)
    real = case.inputs.attention_mask == 1
    return max(
        np.abs(found[name].numpy() - expected[name])[real if expected[name].ndim > 2 else real.any(1)].max()
        for name in expected
    )


@pytest.mark.parametrize("what", EDITS)
def test_a_mistake_made_in_all_places_is_seen(what, tmp_path):
    forward = pytest.importorskip("yizhi.converters.forwards.pytorch")
    variant, old, new = EDITS[what]
    checkpoint = Checkpoint.open(write_variant(tmp_path, variant))
    wrong, edited = load_edited(forward, old, new)
    assert edited, "the forward has changed: write the mistake anew"
    assert largest_difference(checkpoint, forward, oracle) < 1e-9
    assert largest_difference(checkpoint, wrong, load_edited(oracle, old, new)[0]) > 1e-3
