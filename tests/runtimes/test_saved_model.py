"""A SavedModel that could read files, or that runs operators of somebody else's, is refused before it is loaded."""

import shutil

import pytest

from tests.artifacts import slow
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.reading.saved_model import FILES, OPERATORS, check_operators
from yizhi.runtimes import open_runtime

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.slow

VARIANTS = [("bert", None), ("albert-groups", Pooling("max", True)), ("electra-reader", Pooling("cls"))]


@pytest.mark.parametrize(("variant", "pooling"), [*VARIANTS, slow("bert-both_parallel", Pooling("mean", True))])
def test_what_is_exported_is_loaded(open_artifact, variant, pooling):
    _, runtime = open_artifact(variant, "tensorflow", pooling)
    check_operators(runtime.artifact.folder / "saved_model.pb")


def altered(folder, change):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(model.meta_graphs[0].graph_def)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())


def node_in(function, operator):
    node = function.node_def.add()
    node.name, node.op = "strange", operator
    return node


def body(graph):
    return next(function for function in graph.library.function if "serving_default" in function.signature.name)


@pytest.mark.parametrize("operator", ["ReadFile", "WriteFile", "PyFunc", "SaveV2", "RestoreV2", "MyCustomOp"])
def test_an_operator_that_could_do_harm(open_artifact, tmp_path, operator):
    folder = copy(open_artifact, tmp_path)
    altered(folder, lambda graph: node_in(body(graph), operator))
    with pytest.raises(InputError, match=f"{operator}: an operator that no export of Yizhi's has there; not loaded"):
        open_runtime(folder)


def test_a_call_of_what_saves_variables(open_artifact, tmp_path):
    folder = copy(open_artifact, tmp_path)

    def call(graph):
        saver = next(one.signature.name for one in graph.library.function if "traced_save" in one.signature.name)
        node_in(body(graph), "StatefulPartitionedCall").attr["f"].func.name = saver

    altered(folder, call)
    with pytest.raises(InputError, match="which reads or writes files; not loaded"):
        open_runtime(folder)


def test_damaged_files(open_artifact, tmp_path):
    folder = copy(open_artifact, tmp_path)
    data = (folder / "saved_model.pb").read_bytes()
    for size in (0, 5, len(data) // 2):
        (folder / "saved_model.pb").write_bytes(data[:size])
        with pytest.raises(InputError, match="no SavedModel, or is damaged"):
            check_operators(folder / "saved_model.pb")


def test_no_allowed_operator_touches_files():
    """By TensorFlow's own registry: none that is stateful, but variables and calls."""
    from tensorflow.python.framework import op_def_registry

    stateful = {name for name in OPERATORS if op_def_registry.get(name).is_stateful}
    variables = {"AssignVariableOp", "DisableCopyOnRead", "ReadVariableOp", "ResourceGather", "VarHandleOp"}
    assert stateful == {*variables, "StatefulPartitionedCall"}
    assert not OPERATORS & FILES


def copy(open_artifact, tmp_path):
    return shutil.copytree(open_artifact("bert", "tensorflow")[1].artifact.folder, tmp_path / "tensorflow")
