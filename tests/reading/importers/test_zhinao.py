"""360Zhinao becomes Qwen2. The reference is transformers' Qwen2 in float64, over weights that were never fused."""

import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("tiktoken")
torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from parity_tests.test_oracle import turn_exactly  # noqa: E402
from tests.checkpoints import write_json  # noqa: E402
from tests.reading.importers.foreign_files import make_zip, read_tensors, save_bin  # noqa: E402
from tests.reading.importers.zhinao_folder import (  # noqa: E402
    make_config,
    make_reference,
    train_ranks,
    write_zhinao,
)
from yizhi.cli import main  # noqa: E402
from yizhi.errors import InputError  # noqa: E402
from yizhi.parity import oracle  # noqa: E402
from yizhi.reading.checkpoint import Checkpoint  # noqa: E402
from yizhi.reading.importers import import_checkpoint  # noqa: E402
from yizhi.reading.importers.zhinao import default_intermediate_size  # noqa: E402
from yizhi.runtimes.base import Inputs  # noqa: E402

TEXT = "北京是中国的首都。 It's  2024"


def refuse(folder, out) -> list[str]:
    with pytest.raises(InputError) as error:
        import_checkpoint(folder, out)
    assert not out.exists()
    return error.value.faults


def expected_logits(state, config, ids):
    """transformers' Qwen2 in float64, of weights under its names."""
    said = transformers.Qwen2Config(
        **{key: config[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
        num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        intermediate_size=state["model.layers.0.mlp.up_proj.weight"].shape[0],
        rms_norm_eps=config["rms_norm_eps"],
        rope_theta=config.get("rope_theta", 10_000.0),
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        torch_dtype="float64",
    )
    model = transformers.Qwen2ForCausalLM(said)
    turn_exactly(model)
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    with torch.no_grad():
        return model.double().eval()(torch.tensor([ids])).logits.numpy()


@pytest.mark.parametrize("groups", [2, 6, 1, None])
@pytest.mark.parametrize(
    ("form", "gate_up", "shards"), [("safetensors", False, 2), ("safetensors", True, 1), ("bin", True, 2)]
)
def test_logits_are_those_of_qwen2(tmp_path, groups, form, gate_up, shards):
    """With as many groups as heads, as the 7B model has, each group is a query, a key and a value: no plain third."""
    config = make_config(num_key_value_heads=groups)
    state = write_zhinao(tmp_path / "source", config, form=form, gate_up=gate_up, shards=shards)
    import_checkpoint(tmp_path / "source", tmp_path / "out")
    found, said = read_tensors(tmp_path / "out")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in state.items()
    }
    assert (said["model_type"], said["architectures"], said["intermediate_size"]) == (
        "qwen2",
        ["Qwen2ForCausalLM"],
        256,
    )
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert (checkpoint.spec.task, checkpoint.spec.tied) == ("text-generation", False)
        ids = checkpoint.text.tokenizer.encode(TEXT).ids
        ours = oracle.run(checkpoint, Inputs.of([ids], None, None), {"logits"})["logits"]
    assert ids == make_reference(train_ranks())(TEXT)
    np.testing.assert_allclose(ours, expected_logits(state, config, ids), rtol=1e-9, atol=1e-11)


def test_ids_are_those_of_transformers_too(tmp_path):
    """AutoTokenizer reads the result's `tokenizer.json`."""
    write_zhinao(tmp_path / "source")
    import_checkpoint(tmp_path / "source", tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (TEXT, "a  b<|im_start|>[br]c        d<eod>"):
        assert theirs(text)["input_ids"] == make_reference(train_ranks())(text)
    assert theirs.decode(theirs("a  b<eod>")["input_ids"], skip_special_tokens=True) == "a  b"
    assert (theirs.pad_token, theirs.eos_token, theirs.padding_side) == ("<pad>", "<eod>", "left")
    assert theirs.model_max_length == 64


def test_half_precision_is_widened_exactly(tmp_path):
    write_zhinao(tmp_path / "source", dtype="BF16")
    state = write_zhinao(tmp_path / "whole")
    report = import_checkpoint(tmp_path / "source", tmp_path / "out")
    assert report.counts()["widened to float32"] == report.counts()["written"]
    found = read_tensors(tmp_path / "out")[0]
    for name, array in state.items():
        kept = (np.ascontiguousarray(array).view(np.uint32) >> 16 << 16).view(np.float32)
        np.testing.assert_array_equal(found[name], kept)


def test_the_report_names_each_split(tmp_path, capsys):
    write_zhinao(tmp_path / "source", gate_up=True)
    assert main(["import", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    changes = {tensor["name"]: tensor for tensor in report["tensors"]}
    value = changes["model.layers.1.self_attn.v_proj.bias"]
    assert value["source_name"] == "model.layers.1.self_attn.qkv_proj.bias"
    assert value["changes"] == ["renamed", "split: the values of each of 2 groups"]
    assert changes["model.layers.0.mlp.up_proj.weight"]["changes"][1].startswith("split: the half that the gate")
    # Of each layer 9 tensors: 2 fused kernels, a bias, o_proj, down_proj, 2 norms, and a table that is left out.
    assert (
        report["counts"] | {"read": 2 * 8 + 3, "written": 27, "ignored": 2, "split from fused tensors": 16}
        == (report["counts"])
    )
    assert set(report["ignored"].values()) == {"rotary positions, which follow from rope_theta"}
    assert "each of 2 groups is split into 3 heads of queries, one of keys and one of values, of 8 rows each" in str(
        report["notes"]
    )
    assert main(["import", str(tmp_path / "source"), "--out", str(tmp_path / "again")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["360Zhinao, safetensors: qwen2, text-generation", "19 tensors read, 2 ignored, 27 written"]
    assert not any("lower-case" in line for line in lines)


def test_a_zip_is_read_as_its_folder(tmp_path):
    source = tmp_path / "source"
    write_zhinao(source, shards=1)
    (source / "360.tiktoken").write_bytes((source / "vocab" / "360.tiktoken").read_bytes())
    make_zip(tmp_path / "source.zip", source)
    import_checkpoint(tmp_path / "source.zip", tmp_path / "zipped")
    (source / "360.tiktoken").unlink()
    import_checkpoint(source, tmp_path / "out")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "zipped" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_result_says_what_its_source_leaves_out(tmp_path):
    config = make_config()
    for key in ("num_key_value_heads", "rope_theta", "bias", "rope_scaling"):
        del config[key]
    write_zhinao(tmp_path / "source", config)
    import_checkpoint(tmp_path / "source", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (said["num_key_value_heads"], said["rope_theta"], said["intermediate_size"]) == (6, 10_000.0, 256)
    assert said["pad_token_id"] == len(train_ranks())
    assert (said["rms_norm_eps"], said["hidden_act"]) == (1e-5, "silu")
    assert not said.keys() & {"auto_map", "layer_norm_eps"}


def test_a_width_of_its_own_counts(tmp_path):
    write_zhinao(tmp_path / "source", make_config(intermediate_size=40), inner=40)
    import_checkpoint(tmp_path / "source", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"] == 40
    assert default_intermediate_size(4096) == 11008


def test_another_width_than_the_tensors_is_refused(tmp_path):
    write_zhinao(tmp_path / "source", make_config(intermediate_size=40), inner=256, gate_up=True)
    faults = refuse(tmp_path / "source", tmp_path / "out")
    assert faults == [
        f"model.layers.{number}.mlp.gate_up_proj.weight: expected 80 rows, as config.json says; found [512, 48]"
        for number in (0, 1)
    ]


def test_other_heads_than_the_tensors_are_refused(tmp_path):
    write_zhinao(tmp_path / "source")
    write_json(tmp_path / "source" / "config.json", make_config(num_key_value_heads=3))
    faults = refuse(tmp_path / "source", tmp_path / "out")
    assert len(faults) == 4
    assert any(
        fault == "model.layers.1.self_attn.qkv_proj.bias: expected 96 rows, as config.json says; found [80]"
        for fault in faults
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["rope_scaling"]),
        ({"bias": True}, ["bias"]),
        ({"sliding_window": 4096, "hidden_act": "gelu"}, ["hidden_act", "sliding_window"]),
        ({"num_attention_heads": 5, "rms_norm_eps": 7}, ["rms_norm_eps", "hidden_size", "num_attention_heads"]),
        ({"hidden_size": "wide"}, ["hidden_size"]),
        ({"hidden_size": 0}, ["hidden_size"]),
        ({"num_attention_heads": None, "num_key_value_heads": None}, ["num_attention_heads"]),
    ],
)
def test_what_qwen2_does_not_compute_is_refused_by_name(tmp_path, changes, named):
    write_zhinao(tmp_path / "source")
    write_json(tmp_path / "source" / "config.json", make_config(**changes))
    faults = refuse(tmp_path / "source", tmp_path / "out")
    assert set(named) <= {fault.partition(":")[0] for fault in faults}


def test_a_tiktoken_vocabulary_of_another_model_is_refused(tmp_path):
    write_zhinao(tmp_path / "source")
    said = {**make_config(), "model_type": "qwen2", "intermediate_size": 256}
    write_json(tmp_path / "source" / "config.json", said)
    faults = refuse(tmp_path / "source", tmp_path / "out")
    assert faults == ["a tiktoken vocabulary is read for model_type zhinao alone: its rules are in no file"]


def test_of_several_vocabularies_one_is_named(tmp_path):
    source = tmp_path / "source"
    write_zhinao(source)
    named, other = source / "vocab" / "360.tiktoken", source / "vocab" / "other.tiktoken"
    other.write_text("damaged")
    assert "holds 2 files like vocab/*.tiktoken" in refuse(source, tmp_path / "out")[0]
    import_checkpoint(source, tmp_path / "out", vocab=named)
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.text.tokenizer.encode(TEXT).ids == make_reference(train_ranks())(TEXT)


def test_a_vocabulary_that_has_more_tokens_than_rows_is_refused(tmp_path):
    write_zhinao(tmp_path / "source", make_config(vocab_size=300))
    assert any(
        fault.startswith("vocabulary: expected 300 tokens") for fault in refuse(tmp_path / "source", tmp_path / "o")
    )


@pytest.mark.parametrize("command", ["export", "inspect", "import"])
def test_the_published_folder_itself_is_sent_to_import(tmp_path, capsys, command):
    write_zhinao(tmp_path / "source")
    out = ["--out", str(tmp_path / "out")] if command != "inspect" else []
    if command == "import":
        assert main([command, str(tmp_path / "source"), *out]) == 0
        return
    assert main([command, str(tmp_path / "source"), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("  - ") == 1
    assert "model_type: is 360Zhinao's: `yizhi import` writes it as Qwen2" in error


@pytest.mark.parametrize(("form", "dtype"), [("safetensors", "F32"), ("safetensors", "BF16"), ("bin", "F32")])
def test_memory_does_not_grow_with_the_model(tmp_path, form, dtype):
    """Seven more layers, of 30 times the largest tensor, take what one and a half of it does at most."""
    tracemalloc.start()
    peaks = []
    for layers, name in ((1, "small"), (8, "large")):
        config = make_config(hidden_size=192, num_hidden_layers=layers, intermediate_size=1024)
        write_zhinao(tmp_path / name, config, inner=1024, form=form, shards=4, dtype=dtype)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        import_checkpoint(tmp_path / name, tmp_path / f"{name}-out")
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    largest = 4 * 192 * 1024
    assert peaks[1] < peaks[0] + 1.5 * largest


def test_files_of_one_name_with_another_meaning_are_refused(tmp_path):
    """A third tensor of a layer's attention that no rule knows."""
    write_zhinao(tmp_path / "source", form="bin", shards=1)
    state = torch.load(tmp_path / "source" / "pytorch_model-00001-of-00001.bin", weights_only=True)
    more = {"model.layers.0.self_attn.qkv_proj.scales": np.ones(80, np.float32)}
    save_bin(
        tmp_path / "source" / "pytorch_model-00001-of-00001.bin",
        {**{name: tensor.numpy() for name, tensor in state.items()}, **more},
    )
    assert any("qkv_proj.scales" in fault for fault in refuse(tmp_path / "source", tmp_path / "out"))
