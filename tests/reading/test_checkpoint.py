"""A checkpoint is read exactly, or refused with everything that is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from tests.checkpoints import (
    VARIANTS,
    expected_tensors,
    small_config,
    vocab_of,
    write_json,
)
from tests.open_files import faults_of
from yizhi.model.architectures import FAMILIES, POSITIONS_TABLE
from yizhi.reading.checkpoint import Checkpoint, canonical_name

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
DECODER = "cls.predictions.decoder.weight"
SHARD = "model-00002-of-00003.safetensors"
FP32_VARIANTS = [name for name, arguments in VARIANTS.items() if "dtype" not in arguments]


@pytest.mark.parametrize("variant", FP32_VARIANTS)
def test_every_variant_gives_every_tensor_under_its_canonical_name(make_checkpoint, variant):
    expected = expected_tensors(variant)
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        checkpoint.check_values()
        assert {parameter.name for parameter in checkpoint.parameters()} == expected.keys()
        for parameter in checkpoint.parameters():
            array = checkpoint.array(parameter.name)
            np.testing.assert_array_equal(array, expected[parameter.name], strict=True)
            assert b"".join(map(bytes, checkpoint.chunks(parameter))) == array.tobytes()
        assert checkpoint.vocab == vocab_of(checkpoint.config)


@pytest.mark.parametrize(("variant", "dtype"), [("bert-fp16", torch.float16), ("bert-bf16", torch.bfloat16)])
def test_half_precision_is_widened_exactly(make_checkpoint, variant, dtype):
    folder = make_checkpoint(variant)
    stored = load_by_reference(folder)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.dtypes == {"F16" if dtype == torch.float16 else "BF16": len(checkpoint.parameters())}
        for parameter in checkpoint.parameters():
            assert stored[parameter.name].dtype == dtype
            expected = stored[parameter.name].to(torch.float32).numpy()
            np.testing.assert_array_equal(checkpoint.array(parameter.name), expected, strict=True)
            assert b"".join(map(bytes, checkpoint.chunks(parameter))) == expected.tobytes()


def load_by_reference(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("variant", ["bert", "bert-fp16"])
def test_transposed_chunks(make_checkpoint, variant):
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        parameter = next(p for p in checkpoint.parameters() if p.name.endswith("0.intermediate.dense.weight"))
        flat = np.frombuffer(b"".join(map(bytes, checkpoint.chunks(parameter, transpose=True))), np.float32)
        np.testing.assert_array_equal(flat.reshape(32, 56), checkpoint.array(parameter.name).T)


@pytest.mark.parametrize("variant", ["bert", "bert-untied", "bert-decoder-copies", "albert-groups", "megatron-bert"])
def test_transformers_finds_the_same_names(make_checkpoint, variant):
    """transformers is the judge of names: what it loads from the folder is what we call by the same name."""
    folder = make_checkpoint(variant, pooler=False)
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs = model.state_dict()
    with Checkpoint.open(folder) as checkpoint:
        for parameter in checkpoint.parameters():
            np.testing.assert_array_equal(theirs[parameter.name].numpy(), checkpoint.array(parameter.name))


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if not family.image])
def test_transformers_finds_the_same_names_without_prefix(make_checkpoint, model_type):
    folder = make_checkpoint("bert-no-head", model_type=model_type, prefix=False)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    family = FAMILIES[model_type]
    prefix = family.prefix
    # A table that follows from its formula is no parameter of ours: transformers makes RoFormer's itself.
    made = {name for name in model.state_dict() if family.ignored.get(f"{prefix}.{name}") == POSITIONS_TABLE}
    assert set(report["missing_keys"]) <= made
    assert not report["unexpected_keys"]
    with Checkpoint.open(folder) as checkpoint:
        theirs = {f"{prefix}.{name}": tensor.numpy() for name, tensor in model.state_dict().items() if name not in made}
        assert {parameter.name for parameter in checkpoint.parameters()} == theirs.keys()
        for name, expected in theirs.items():
            np.testing.assert_array_equal(checkpoint.array(name), expected)


def test_transformers_finds_the_same_discriminator(make_checkpoint):
    folder = make_checkpoint("electra-discriminator")
    model, report = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.spec.task == "replaced-token-detection"
        assert {parameter.name for parameter in checkpoint.parameters()} == model.state_dict().keys()


def test_the_head_is_what_the_tensors_say(make_checkpoint):
    tasks = {}
    for variant in ("bert", "bert-no-head", "electra-generator", "electra-discriminator"):
        with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
            tasks[variant] = (checkpoint.spec.task, checkpoint.spec.pooler is not None)
    assert tasks == {
        "bert": ("fill-mask", True),
        "bert-no-head": ("features", True),
        "electra-generator": ("fill-mask", False),
        "electra-discriminator": ("replaced-token-detection", False),
    }


def test_projection_exists_only_between_different_widths(make_checkpoint):
    def projects(variant: str) -> bool:
        with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
            return checkpoint.spec.embeddings_projection is not None

    assert projects("electra-generator")
    assert not projects("electra-generator-same-width")


def test_shared_layers_are_one_set_of_parameters(make_checkpoint):
    with Checkpoint.open(make_checkpoint("albert")) as checkpoint:
        spec = checkpoint.spec
        assert len(spec.layers) == 3
        assert len(set(spec.layers)) == 1
        names = [parameter.name for parameter in spec.parameters()]
        assert len(names) == len(set(names)) == len(checkpoint.parameters())
    with Checkpoint.open(make_checkpoint("albert-groups")) as checkpoint:
        groups = [block[0].query.name.split(".")[3] for block in checkpoint.spec.blocks]
        assert groups == ["0", "0", "1", "1"]
        assert [len(block) for block in checkpoint.spec.blocks] == [2, 2, 2, 2]


# --- tensors that do not belong, or are not there ------------------------------------------------


def test_missing_and_extra_tensors_are_all_named(make_checkpoint):
    def alter(tensors):
        del tensors[QUERY], tensors["cls.predictions.bias"]
        tensors["bert.encoder.layer.3.output.dense.weight"] = np.ones((32, 56), np.float32)
        tensors["classifier.weight"] = np.ones((2, 32), np.float32)

    assert faults_of(make_checkpoint(alter=alter)) == [
        f"{QUERY}: missing; expected [32, 32]",
        "bert.encoder.layer.3.output.dense.weight: not a tensor of this bert configuration",
        "classifier.weight: not a tensor of this bert configuration",
        "cls.predictions.bias: missing; expected [116]",
    ]


def test_wrong_shapes_and_types_are_all_named(make_checkpoint):
    def alter(tensors):
        tensors["bert.encoder.layer.1.intermediate.dense.weight"] = tensors[
            "bert.encoder.layer.1.intermediate.dense.weight"
        ].T.copy()
        tensors[QUERY] = tensors[QUERY].astype(np.float64)
        tensors[WORD_EMBEDDINGS] = tensors[WORD_EMBEDDINGS][:-1]
        tensors["bert.pooler.dense.bias"] = np.ones(32, np.int8)

    assert faults_of(make_checkpoint(alter=alter)) == [
        f"{WORD_EMBEDDINGS}: expected [116, 32]; found [115, 32]",
        f"{QUERY}: expected dtype F32, F16, BF16; found F64",
        "bert.encoder.layer.1.intermediate.dense.weight: expected [56, 32]; found [32, 56]",
        "bert.pooler.dense.bias: expected dtype F32, F16, BF16; found I8",
    ]


def test_a_head_that_the_config_promises_must_be_there(make_checkpoint):
    folder = make_checkpoint("bert-no-head")
    write_json(folder / "config.json", {**small_config(), "architectures": ["BertForMaskedLM"]})
    (fault,) = faults_of(folder)
    assert "config.json says BertForMaskedLM, but none of that head's tensors is present" in fault


def test_half_a_head_is_not_a_head(make_checkpoint):
    def alter(tensors):
        for name in list(tensors):
            if name.startswith("cls.predictions.transform"):
                del tensors[name]

    faults = faults_of(make_checkpoint(alter=alter))
    assert [fault.split(":")[0] for fault in faults] == [
        f"cls.predictions.transform.{name}"
        for name in ("LayerNorm.bias", "LayerNorm.weight", "dense.bias", "dense.weight")
    ]


def test_layers_beyond_the_configuration_are_refused(make_checkpoint):
    folder = make_checkpoint()
    write_json(folder / "config.json", small_config(num_hidden_layers=2))
    faults = faults_of(folder)
    assert len(faults) == 16
    assert all(fault.startswith("bert.encoder.layer.2.") for fault in faults)


def test_next_sentence_and_position_ids_are_ignored_with_a_reason(make_checkpoint):
    def alter(tensors):
        tensors["cls.seq_relationship.weight"] = np.ones((2, 32), np.float32)

    with Checkpoint.open(make_checkpoint("bert-position-ids", alter=alter)) as checkpoint:
        assert checkpoint.ignored == {
            "bert.embeddings.position_ids": "a buffer holding 0, 1, 2, …",
            "cls.seq_relationship.weight": "the next-sentence head; no output uses it",
        }


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("variant", "dtype"), [("bert", "F32"), ("bert-fp16", "F32"), ("bert-bf16", "F32"), ("bert-bf16", "BF16")]
)
def test_a_parameter_s_bytes_come_in_small_pieces(make_checkpoint, monkeypatch, variant, dtype, transpose):
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        kernel = next(one for one in checkpoint.parameters() if one.name == QUERY)
        array = checkpoint.array(QUERY).T if transpose else checkpoint.array(QUERY)
        bits = np.ascontiguousarray(array).view(np.uint32)
        expected = (bits >> 16).astype(np.uint16) if dtype == "BF16" else bits
        monkeypatch.setattr("yizhi.reading.safetensors_file._BLOCK", 100)
        pieces = [bytes(piece) for piece in checkpoint.chunks(kernel, transpose, dtype)]
    assert b"".join(pieces) == expected.tobytes()
    assert len(pieces) > 10 or (variant, transpose) == ("bert", False) or (dtype, transpose) == ("BF16", False)


@pytest.mark.parametrize("variant", ["bert", "bert-fp16", "bert-bf16"])
def test_nan_and_infinity_are_counted_by_tensor(make_checkpoint, variant):
    def alter(tensors):
        tensors[QUERY][3, 4] = np.nan
        tensors["bert.encoder.layer.1.output.LayerNorm.bias"][[1, 5]] = np.inf, -np.inf

    assert faults_of(make_checkpoint(variant, alter=alter)) == [
        f"{QUERY}: 1 of 1024 values are NaN or Inf",
        "bert.encoder.layer.1.output.LayerNorm.bias: 2 of 32 values are NaN or Inf",
    ]


def test_large_finite_values_are_not_infinity(make_checkpoint):
    def alter(tensors):
        tensors[QUERY][:] = 3e38  # their sum overflows

    with Checkpoint.open(make_checkpoint(alter=alter)) as checkpoint:
        checkpoint.check_values()


# --- older and other names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "model_type", "canonical"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert", "bert.embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.beta", "bert", "bert.embeddings.LayerNorm.bias"),
        ("encoder.layer.0.output.LayerNorm.gamma", "bert", "bert.encoder.layer.0.output.LayerNorm.weight"),
        ("bert.encoder.ln.gamma", "megatron-bert", "bert.encoder.ln.weight"),
        (
            "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.beta",
            "albert",
            "albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.bias",
        ),
        ("pooler.dense.weight", "bert", "bert.pooler.dense.weight"),
        ("embeddings_project.weight", "electra", "electra.embeddings_project.weight"),
        # Not LayerNorms: these names are somebody else's parameters.
        ("bert.encoder.layer.0.output.dense.gamma", "bert", "bert.encoder.layer.0.output.dense.gamma"),
        ("bert.MyLayerNorm.gamma", "bert", "bert.MyLayerNorm.gamma"),
        ("bert.LayerNorm.gamma.extra", "bert", "bert.LayerNorm.gamma.extra"),
        ("cls.predictions.bias", "bert", "cls.predictions.bias"),
    ],
)
def test_canonical_names(stored, model_type, canonical):
    assert canonical_name(stored, FAMILIES[model_type]) == canonical


def test_gamma_is_renamed_in_layer_norms_only(make_checkpoint):
    def alter(tensors):
        tensors["bert.encoder.layer.0.output.dense.gamma"] = tensors.pop("bert.encoder.layer.0.output.dense.weight")

    faults = faults_of(make_checkpoint("bert-gamma-beta", alter=alter))
    assert faults == [
        "bert.encoder.layer.0.output.dense.gamma: not a tensor of this bert configuration",
        "bert.encoder.layer.0.output.dense.weight: missing; expected [32, 56]",
    ]


@pytest.mark.parametrize("other", ["bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"])
def test_one_tensor_under_two_names_is_refused(make_checkpoint, other):
    def alter(tensors):
        tensors[other] = tensors["bert.embeddings.LayerNorm.weight"] + 1

    (fault,) = faults_of(make_checkpoint(alter=alter))
    assert fault == f"{other}: the same tensor as bert.embeddings.LayerNorm.weight"


@pytest.mark.parametrize("variant", ["bert", "albert"])
def test_decoder_bias_has_two_names(make_checkpoint, variant):
    family = FAMILIES[VARIANTS[variant].get("model_type", "bert")]
    canonical = family.masked_lm_names.decoder_bias
    alias = family.masked_lm_names.decoder_bias_alias

    def rename(tensors):
        tensors[alias] = tensors.pop(canonical)

    with Checkpoint.open(make_checkpoint(variant, name="renamed", alter=rename)) as checkpoint:
        np.testing.assert_array_equal(checkpoint.array(canonical), expected_tensors(variant)[canonical])

    def differ(tensors):
        tensors[alias] = tensors[canonical] + 1

    (fault,) = faults_of(make_checkpoint(variant, name="different", alter=differ))
    assert fault == f"{alias}: differs from {canonical}, which must be the same tensor"


# --- the decoder, tied and untied ----------------------------------------------------------------


def test_a_tied_decoder_is_the_embeddings_whether_stored_or_not(make_checkpoint):
    for variant in ("bert", "bert-decoder-copies"):
        with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
            assert checkpoint.spec.tied
            assert checkpoint.spec.head.decoder == WORD_EMBEDDINGS
            assert DECODER not in {parameter.name for parameter in checkpoint.parameters()}


def test_a_tied_decoder_with_other_values_is_refused(make_checkpoint):
    def alter(tensors):
        tensors[DECODER] = tensors[WORD_EMBEDDINGS].copy()
        tensors[DECODER][7, 3] += 1e-3

    faults = faults_of(make_checkpoint(alter=alter))
    assert any(fault.startswith(f"{DECODER}: differs from {WORD_EMBEDDINGS}") for fault in faults)


def test_a_decoder_with_nan_is_bad_values_not_another_decoder(make_checkpoint):
    def alter(tensors):
        tensors[WORD_EMBEDDINGS][0, 0] = np.nan
        tensors[DECODER] = tensors[WORD_EMBEDDINGS]

    assert faults_of(make_checkpoint(alter=alter)) == [f"{WORD_EMBEDDINGS}: 1 of 3712 values are NaN or Inf"]


def test_an_untied_decoder_is_kept_and_must_be_there(make_checkpoint):
    with Checkpoint.open(make_checkpoint("bert-untied")) as checkpoint:
        assert not checkpoint.spec.tied
        assert not np.array_equal(checkpoint.array(DECODER), checkpoint.array(WORD_EMBEDDINGS))

    folder = make_checkpoint("bert-untied", name="missing", alter=lambda tensors: tensors.pop(DECODER))
    assert faults_of(folder) == [f"{DECODER}: missing; expected [116, 32]"]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8"])
def test_a_decoder_of_another_dtype_is_refused(make_checkpoint, dtype):
    """Its values cannot be compared with the embeddings; that must not be a crash."""
    folder = make_checkpoint("bert-decoder-copies")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    size = 116 * 32
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    header["cls.predictions.decoder.bias"]["dtype"] = "I32"
    old = header.pop(DECODER)["data_offsets"]
    header["filler"] = {"dtype": "F32", "shape": [size], "data_offsets": old}
    header[DECODER] = {"dtype": dtype, "shape": [116, 32], "data_offsets": [end, end + size]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + bytes(size))
    faults = faults_of(folder)
    assert {fault.split(":")[0] for fault in faults} == {"filler", DECODER, "cls.predictions.decoder.bias"}
