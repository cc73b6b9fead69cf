import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import adapter_entry, small_config, write_variant
from yizhi.errors import InputError
from yizhi.model.adapter_config import read_adapter, read_adapters
from yizhi.model.config import EncoderConfig
from yizhi.parity.golden import is_sum, norm_of
from yizhi.reading.checkpoint import Checkpoint

PLAIN = {"mh_adapter": True, "output_adapter": True, "reduction_factor": 4, "non_linearity": "relu"}


def faults_of(entry, model_type="bert"):
    with pytest.raises(InputError) as caught:
        EncoderConfig.from_dict(small_config(model_type, adapters=entry))
    return caught.value.faults


@pytest.mark.parametrize("entry", [None, {"adapters": {}, "config_map": {}}, {"adapters": {}}])
def test_no_adapter(entry):
    assert EncoderConfig.from_dict(small_config(adapters=entry)).adapter is None


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (
            {"adapters": {"a": "x", "b": "x"}, "config_map": {"x": PLAIN}},
            "expected one adapter, because a graph computes only one",
        ),
        ({"adapters": {"a": "x"}, "config_map": {}}, "config_map: 'x', the configuration of 'a', is missing"),
        ({**adapter_entry(PLAIN), "fusions": {"a,b": "static"}}, "AdapterFusion is not supported"),
        (["a"], "expected an object with adapters and config_map"),
        (adapter_entry(PLAIN, "a/b"), "name: expected letters, digits, _ and -; found 'a/b'"),
        (
            adapter_entry({**PLAIN, "mh_adapter": False, "output_adapter": False}),
            "expected at least one to be true; found both false",
        ),
        (adapter_entry({**PLAIN, "reduction_factor": 0}), "reduction_factor: expected 0.015625 or more"),
        (adapter_entry({**PLAIN, "leave_out": ["1"]}), "leave_out: expected a list of layer numbers"),
    ],
)
def test_what_cannot_be_is_refused(entry, fault):
    (found,) = faults_of(entry)
    assert found.startswith("adapters: ")
    assert fault in found


def test_megatron_bert_has_none():
    (fault,) = faults_of(adapter_entry(PLAIN), "megatron-bert")
    assert "the library has adapters for bert, albert, electra; found model_type 'megatron-bert'" in fault


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*PLAIN, "scaling", "leave_out", "residual_before_ln", "ln_after"]), _JSON), _JSON
)
def test_any_values_are_read_or_refused(changes, fusions):
    faults = []
    found = read_adapter("a", {**PLAIN, **changes}, "bert", faults)
    assert bool(faults) == (found is None)
    if found:
        assert all(found.bottleneck_size(32, layer) >= 1 for layer in range(3))
    read_adapters({"adapters": {**adapter_entry(PLAIN), "fusions": fusions}}, "bert", [])
    read_adapters({"adapters": fusions}, "bert", [])


def test_a_bottleneck_by_layer(tmp_path):
    layers = Checkpoint.open(write_variant(tmp_path, "bert-by_layer")).spec.layers
    assert [layer.output_adapter and layer.output_adapter.up.inputs for layer in layers] == [16, None, 64]


def test_albert_s_adapters_are_shared_as_its_layers_are(tmp_path):
    spec = Checkpoint.open(write_variant(tmp_path, "albert-groups-by_layer")).spec
    assert [layer.output_adapter is None for layer in spec.layers] == [False, True] * 2 + [False, False] * 2
    names = {layer.output_adapter.up.name for layer in spec.layers if layer.output_adapter}
    assert len(names) == 3


def test_a_norm_under_both_of_its_names(tmp_path):
    """The library registers the norm before the bottleneck twice, and pickles hold it twice."""

    def twice(tensors, change=0.0):
        for name in [name for name in tensors if ".adapter_norm_before." in name]:
            tensors[name.replace("adapter_norm_before", "adapter_down.0")] = tensors[name] + change

    checkpoint = Checkpoint.open(write_variant(tmp_path / "equal", "bert-norms", alter=twice))
    assert not [parameter for parameter in checkpoint.parameters() if ".adapter_down.0." in parameter.name]
    with pytest.raises(InputError) as caught:
        Checkpoint.open(write_variant(tmp_path / "unequal", "bert-norms", alter=lambda tensors: twice(tensors, 1)))
    assert len(caught.value.faults) == 3 * 2 * 2
    assert "differs from" in caught.value.faults[0]


def test_what_ends_without_a_layer_norm_is_a_sum(tmp_path):
    spec = Checkpoint.open(write_variant(tmp_path, "bert-adapter_plus")).spec
    states = [f"hidden_states.{number}" for number in range(4)]
    assert [is_sum(spec, name) for name in (*states, "last_hidden_state")] == [False, True, True, True, True]
    assert norm_of(spec, "hidden_states.1") is None
