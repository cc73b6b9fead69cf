"""config.json: what is read, what is refused, and that everything wrong is said at once."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import small_config
from yizhi.errors import InputError
from yizhi.model.architectures import FAMILIES
from yizhi.model.config import ACTIVATIONS, EncoderConfig
from yizhi.storage.json_files import read_json_object

MANY_DIGITS = 10**4000


def faults_of(config: dict) -> list[str]:
    with pytest.raises(InputError) as caught:
        EncoderConfig.from_dict(config)
    return caught.value.faults


@pytest.mark.parametrize("model_type", FAMILIES)
def test_reads_every_family(model_type):
    config = EncoderConfig.from_dict(small_config(model_type))
    width = 24 if model_type == "modernbert" else 32
    head = 12 if model_type == "qwen3" else width // 4
    assert (config.model_type, config.hidden_size, config.head_size) == (model_type, width, head)
    assert config.embedding_size == (16 if model_type in ("albert", "electra", "roformer") else width)


def test_silent_fields_get_the_published_defaults():
    silent = small_config("bert")
    for key in ("hidden_act", "layer_norm_eps", "pad_token_id"):
        del silent[key]
    config = EncoderConfig.from_dict(silent)
    assert (config.activation, config.layer_norm_eps, config.pad_token_id) == ("gelu_erf", 1e-12, 0)
    assert config.tie_word_embeddings is True

    silent = small_config("albert")
    for key in ("hidden_act", "embedding_size", "num_hidden_groups", "inner_group_num"):
        del silent[key]
    config = EncoderConfig.from_dict(silent)
    assert (config.activation, config.embedding_size) == ("gelu_tanh", 128)
    assert (config.num_hidden_groups, config.inner_group_num) == (1, 1)


def test_roformers_embeddings_are_as_wide_as_its_layers_where_the_width_is_null():
    config = EncoderConfig.from_dict(small_config("roformer", embedding_size=None, rotary_value=True))
    assert (config.embedding_size, config.layers.rotary_value) == (32, True)
    assert (config.layers.rope_theta(2), config.layers.window(2)) == (10_000, None)
    assert faults_of(small_config("roformer", rotary_value="yes", num_attention_heads=32)) == [
        "hidden_size: expected an even number for each of 32 heads; found 1",
        "rotary_value: expected true or false; found 'yes'",
    ]


def test_qwens_heads():
    config = EncoderConfig.from_dict(small_config("qwen3", tie_word_embeddings=True, attention_bias=True))
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_size) == (4, 2, 12)
    assert (config.layers.attention_bias, config.layers.attention_output_bias) == (True, True)
    assert config.tie_word_embeddings
    of_five = small_config("qwen2", num_key_value_heads=None)
    del of_five["rope_theta"]
    of_five["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e6}
    config = EncoderConfig.from_dict(of_five)
    assert (config.num_key_value_heads, config.head_size, config.layers.rope_theta(1)) == (4, 8, 5e6)
    assert (config.layers.attention_bias, config.layers.attention_output_bias) == (True, False)
    assert not config.tie_word_embeddings


def test_what_is_refused_of_qwens_layers():
    changes = {
        "num_key_value_heads": 3,
        "head_dim": 7,
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "is_causal": False,
        "use_sliding_window": True,
        "layer_types": ["full_attention", "sliding_attention"],
    }
    assert [fault.partition(": ")[0] for fault in faults_of(small_config("qwen3", **changes))] == [
        *("num_attention_heads", "head_dim", "rope_scaling", "is_causal", "use_sliding_window", "layer_types"),
    ]
    default = {"rope_type": "default"}
    EncoderConfig.from_dict(small_config("qwen3", rope_scaling=default, is_causal=True))
    both = {"rope_type": "default", "type": "yarn", "factor": 4.0}
    assert faults_of(small_config("qwen3", rope_scaling=both, rope_parameters={"type": "default"})) == [
        "rope_scaling: expected none, or rope_type 'default'; "
        "found {'factor': 4.0, 'rope_type': 'default', 'type': 'yarn'}"
    ]
    assert faults_of(small_config("qwen3", rope_theta=1e4, rope_scaling={**default, "rope_theta": 1e6})) == [
        "rope_scaling: rope_theta: expected 10000.0, as elsewhere; found 1000000.0"
    ]


def test_two_names_of_qwens_rotary_base_must_agree():
    """transformers 4 reads `rope_theta`, version 5 `rope_parameters`."""
    of_five = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}
    assert faults_of(small_config("qwen2", rope_theta=5.0, **of_five)) == [
        "rope_theta: expected 5000000.0, as in rope_parameters; found 5.0"
    ]
    assert EncoderConfig.from_dict(small_config("qwen2", rope_theta=5e6, **of_five)).layers.rope_theta(0) == 5e6


@pytest.mark.parametrize("count", [0, 2, 4])
def test_each_of_qwens_layers_has_one_type(count):
    assert faults_of(small_config("qwen3", layer_types=["full_attention"] * count)) == [
        f"layer_types: expected as many as num_hidden_layers, 3; found {count}"
    ]
    EncoderConfig.from_dict(small_config("qwen3", layer_types=["full_attention"] * 3))
    EncoderConfig.from_dict(small_config("qwen3", layer_types=None))


def test_a_padding_that_no_file_names_is_not_refused():
    """Qwen's default, 151643, is in no short vocabulary."""
    for family in ("qwen2", "qwen3", "modernbert"):
        config = small_config(family)
        config.pop("pad_token_id", None)
        assert EncoderConfig.from_dict(config).pad_token_id == 0
    assert EncoderConfig.from_dict(small_config("qwen2", pad_token_id=None, vocab_size=151_936)).pad_token_id == 151_643
    assert faults_of(small_config("qwen2", pad_token_id=151_643)) == [
        f"pad_token_id: expected an id below vocab_size; found {151_643}"
    ]
    short = small_config("roberta", vocab_size=1)
    del short["pad_token_id"]  # from which positions are counted
    assert any(fault.startswith("pad_token_id: ") for fault in faults_of(short))


def test_modernberts_layers():
    """What transformers' ModernBertConfig assumes where a file is silent."""
    silent = small_config("modernbert")
    for key in ("norm_eps", "hidden_activation", "local_attention", "global_attn_every_n_layers", "type_vocab_size"):
        silent.pop(key)
    config = EncoderConfig.from_dict(silent)
    layers = config.layers
    assert (config.activation, config.layer_norm_eps, config.head_activation) == ("gelu_erf", 1e-5, "gelu_erf")
    assert [layers.window(number) for number in range(4)] == [None, 64, 64, None]
    assert [layers.rope_theta(number) for number in range(4)] == [160_000, 10_000, 10_000, 160_000]
    biases = (layers.attention_bias, layers.mlp_bias, layers.norm_bias, layers.classifier_bias, layers.decoder_bias)
    assert biases == (False, False, False, False, True)
    one_base = EncoderConfig.from_dict({**silent, "local_rope_theta": None, "hidden_act": "relu"})
    assert (one_base.layers.rope_theta(1), one_base.activation) == (160_000, "gelu_erf")


def test_modernberts_faults_are_told_at_once():
    changes = {
        "hidden_activation": "mish",
        "norm_eps": 0,
        "rope_scaling": {"type": "yarn"},
        "global_rope_theta": -1,
        "local_rope_theta": "wide",
        "classifier_activation": "tanh",
        "classifier_pooling": "max",
        "norm_bias": 1,
        "global_attn_every_n_layers": 0,
        "local_attention": 1.5,
    }
    assert [fault.partition(":")[0] for fault in faults_of(small_config("modernbert", **changes))] == list(changes)


@pytest.mark.parametrize("base", [10**400, 1e-320, 0.5, 1e13, True])
def test_rotary_bases_that_overflow(base):
    assert [fault.partition(";")[0] for fault in faults_of(small_config("modernbert", global_rope_theta=base))] == [
        "global_rope_theta: expected a number from 1 to 1000000000000"
    ]


def test_positions_counted_past_padding_hold_fewer_tokens():
    config = EncoderConfig.from_dict(small_config("roberta", max_position_embeddings=514))
    assert (config.padding_idx, config.longest) == (1, 512)
    config = EncoderConfig.from_dict(small_config("roberta", max_position_embeddings=514, pad_token_id=0))
    assert (config.padding_idx, config.longest) == (0, 513)
    silent = small_config("xlm-roberta")
    del silent["pad_token_id"]
    assert EncoderConfig.from_dict(silent).pad_token_id == 1
    config = EncoderConfig.from_dict(small_config("bert", pad_token_id=1))
    assert (config.padding_idx, config.longest) == (None, 64)


def test_task_types_where_they_are_used():
    def tasks(**changes):
        return EncoderConfig.from_dict(small_config("ernie", **changes)).task_type_vocab_size

    assert tasks() == 3
    assert tasks(task_type_vocab_size=16) == 16
    assert tasks(use_task_id=False, task_type_vocab_size=16) is None
    (fault,) = faults_of(small_config("ernie", use_task_id="yes"))
    assert fault.startswith("use_task_id: ")
    (fault,) = faults_of(small_config("ernie", task_type_vocab_size=0))
    assert fault.startswith("task_type_vocab_size: ")
    assert EncoderConfig.from_dict(small_config("bert", use_task_id=True)).task_type_vocab_size is None


def test_how_far_relative_positions_reach():
    def farthest(**changes):
        return EncoderConfig.from_dict(small_config("nezha", **changes)).layers.max_relative_position

    assert farthest() == 6
    silent = small_config("nezha")
    del silent["max_relative_position"]
    assert EncoderConfig.from_dict(silent).layers.max_relative_position == 64
    assert EncoderConfig.from_dict(small_config("bert", max_relative_position=6)).layers.max_relative_position is None
    for wrong in (0, "64", 10**6):
        (fault,) = faults_of(small_config("nezha", max_relative_position=wrong))
        assert fault.startswith("max_relative_position: ")


def test_padding_leaves_no_position():
    (fault,) = faults_of(small_config("roberta", pad_token_id=9, max_position_embeddings=10))
    assert fault == "max_position_embeddings: expected 13 or more, for a row of one word; found 10"
    assert EncoderConfig.from_dict(small_config("roberta", pad_token_id=9, max_position_embeddings=13)).longest == 3


def test_a_stray_embedding_size_means_nothing_to_bert():
    assert EncoderConfig.from_dict(small_config("bert", embedding_size=7)).embedding_size == 32


@pytest.mark.parametrize(("hidden_act", "function"), list(ACTIVATIONS.items()))
def test_activation_names(hidden_act, function):
    # "gelu" is the erf form: tanh would be wrong by up to 5e-4.
    assert EncoderConfig.from_dict(small_config(hidden_act=hidden_act)).activation == function
    assert (function == "gelu_erf") == (hidden_act == "gelu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "swish"),
        ("hidden_act", None),
        ("hidden_act", ["gelu"]),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", math.inf),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", -1e-12),
        ("layer_norm_eps", True),
        ("layer_norm_eps", "1e-12"),
        ("vocab_size", True),
        ("vocab_size", 116.0),
        ("vocab_size", 0),
        ("vocab_size", -116),
        ("vocab_size", "116"),
        ("hidden_size", MANY_DIGITS),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 2**40),
        ("pad_token_id", 10**6),
        ("pad_token_id", False),
        ("tie_word_embeddings", 1),
        ("tie_word_embeddings", "false"),
        ("architectures", "BertForMaskedLM"),
        ("architectures", [7]),
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 8}),
    ],
)
def test_one_bad_value_is_one_fault_that_names_it(key, value):
    (fault,) = faults_of(small_config(**{key: value}))
    assert fault.startswith(f"{key}: ")
    assert len(fault) < 250


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "type_vocab_size"])
def test_a_missing_size_is_named(key):
    config = small_config()
    del config[key]
    assert f"{key}: missing" in faults_of(config)


def test_every_fault_is_reported_at_once():
    faults = faults_of(
        small_config(hidden_size=33, hidden_act="mish", layer_norm_eps=2, vocab_size=None, is_decoder=True)
    )
    assert [fault.split(":")[0] for fault in faults] == [
        "is_decoder",
        "vocab_size",
        "hidden_act",
        "layer_norm_eps",
        "hidden_size",
    ]


def test_contradictions_between_sizes():
    (fault,) = faults_of(small_config("albert", num_hidden_groups=4))
    assert fault.startswith("num_hidden_groups: expected at most num_hidden_layers (3)")
    (fault,) = faults_of(small_config("albert", num_hidden_layers=500, inner_group_num=500))
    assert fault.startswith("inner_group_num: ")


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"model_type": "gpt2"}, "expected one of bert, albert"),
        ({"model_type": ["bert"]}, "expected one of"),
        ({}, "found None"),
        ({"layers_num": 24, "heads_num": 16}, "UER-py"),
        ({"num_hidden_layers": 12, "hidden_size": 768}, "yizhi import"),
    ],
)
def test_other_model_types_get_an_explanation(config, hint):
    (fault,) = faults_of(config)
    assert fault.startswith("model_type: ")
    assert hint in fault


def test_published_configurations(shared_data: Path):
    accepted, refused = [], {}
    for path in sorted((shared_data / "configs").glob("*/*config.json")):
        if path.name == "tokenizer_config.json":
            continue
        try:
            EncoderConfig.read(path)
            accepted.append(f"{path.parent.name}/{path.name}")
        except InputError as error:
            refused[f"{path.parent.name}/{path.name}"] = error.faults
    assert "bert-base-chinese/config.json" in accepted
    assert len(accepted) >= 7
    assert "bert-base-chinese/bert_config.json" in refused
    assert "uer_albert_large_native/config.json" in refused
    assert all("yizhi import" in faults[0] for faults in refused.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b'{"model_type": "bert"', "is not JSON"),
        (b"[1, 2]", "expected a JSON object; found list"),
        (b'{"a": "\xff"}', "is not UTF-8 (byte 7)"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": 1e999}', "is not JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON"),
    ],
)
def test_files_that_are_not_json(tmp_path, content, says):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json") as caught:
        read_json_object(path)
    (fault,) = caught.value.faults
    assert says in fault


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="the file is missing"):
        read_json_object(tmp_path / "config.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json_object(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=10,
)
KEYS = [*small_config("albert"), "architectures", "tie_word_embeddings", "is_decoder", "position_embedding_type"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_values_are_read_or_refused(model_type, changes):
    try:
        config = EncoderConfig.from_dict({**small_config(model_type), **changes})
    except InputError as error:
        str(error).encode()
    else:
        assert isinstance(config.vocab_size, int)
        assert 0 < config.layer_norm_eps < 1
        assert config.hidden_size % config.num_attention_heads == 0


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_json_object(path), dict)
    except InputError as error:
        str(error).encode()


def test_rows_that_hold_no_word_are_refused():
    with pytest.raises(InputError) as caught:
        EncoderConfig.from_dict(small_config(max_position_embeddings=2))
    assert caught.value.faults == ["max_position_embeddings: expected 3 or more, for a row of one word; found 2"]
    assert EncoderConfig.from_dict(small_config(max_position_embeddings=3)).longest == 3
