"""Every published configuration opens, or is refused with the reason that is true of it."""

import pytest

from yizhi.errors import InputError
from yizhi.model.architectures import full_spec
from yizhi.model.config import EncoderConfig
from yizhi.storage.json_files import read_json_object

# Folder -> family, layers, hidden size, embedding size.
OPENS = {
    "bert-base-chinese": ("bert", 12, 768, 768),
    "chinese-roberta-wwm-ext-large": ("bert", 24, 1024, 1024),
    "rbt3": ("bert", 3, 768, 768),
    "hfl_chinese-electra_base_discriminator": ("electra", 12, 768, 768),
    "hfl_chinese-electra_base_generator": ("electra", 12, 192, 768),
    "hfl_chinese-electra_small_discriminator": ("electra", 12, 256, 128),
    "hfl_chinese-electra_small_generator": ("electra", 12, 64, 128),
    "voidful_albert_chinese_tiny": ("albert", 4, 312, 128),
}
REFUSED = {
    "bert-base-chinese/bert_config.json": "Google bert_config.json is read by `yizhi import`",
    "albert_small_zh_google/albert_config.json": "is read by `yizhi import`",
    "uer_albert_large_native/config.json": "This is a UER-py config: use `yizhi import`",
}


def test_none_is_left_out(shared_data):
    found = {
        path.relative_to(shared_data / "configs").as_posix() for path in (shared_data / "configs").glob("*/*.json")
    }
    settings = {name for name in found if name.endswith("tokenizer_config.json")}
    assert found - settings == {*(f"{name}/config.json" for name in OPENS), *REFUSED}


@pytest.mark.parametrize(("folder", "expected"), OPENS.items())
def test_opens(shared_data, folder, expected):
    config = EncoderConfig.read(shared_data / "configs" / folder / "config.json")
    assert (config.model_type, config.num_hidden_layers, config.hidden_size, config.embedding_size) == expected
    spec = full_spec(config)
    assert (spec.embeddings_projection is not None) == (config.embedding_size != config.hidden_size)
    assert len(spec.blocks) == config.num_hidden_layers


@pytest.mark.parametrize(("path", "reason"), REFUSED.items())
def test_refused_with_the_reason(shared_data, path, reason):
    with pytest.raises(InputError) as error:
        EncoderConfig.read(shared_data / "configs" / path)
    assert len(error.value.faults) == 1
    assert reason in error.value.faults[0]


def test_presets_open_once_their_family_is_said(shared_data):
    presets = read_json_object(shared_data / "configs" / "presets.json")
    presets.pop("_source")
    for name, raw in presets.items():
        family = next((family for family in ("albert", "electra") if family in name), "bert")
        spec = full_spec(EncoderConfig.from_dict({**raw, "model_type": family}, name))
        assert len(spec.blocks) == raw["num_hidden_layers"], name


def test_catalogue_s_shapes_are_the_published_ones(shared_data):
    """The catalogue's shapes were typed in: hold them to the files."""
    from yizhi.catalogue.catalogue import read_catalogue

    known = read_catalogue()
    presets = read_json_object(shared_data / "configs" / "presets.json")
    published = {
        name: read_json_object(shared_data / "configs" / folder / "config.json")
        for name, folder in {
            "bert-base-chinese": "bert-base-chinese",
            "chinese-roberta-wwm-ext-large": "chinese-roberta-wwm-ext-large",
            "rbt3": "rbt3",
            "chinese-electra-base-discriminator": "hfl_chinese-electra_base_discriminator",
            "chinese-electra-base-generator": "hfl_chinese-electra_base_generator",
            "chinese-electra-small-discriminator": "hfl_chinese-electra_small_discriminator",
            "chinese-electra-small-generator": "hfl_chinese-electra_small_generator",
            "albert_chinese_tiny": "voidful_albert_chinese_tiny",
        }.items()
    }
    published |= {f"albert_chinese_{size}": presets[f"albert-chinese-{size}"] for size in ("small", "base", "large")}
    published |= {f"albert_chinese_{size}": presets[f"albert-chinese-{size}"] for size in ("xlarge", "xxlarge")}
    published["chinese_roberta_L-8_H-512"] = presets["uer/chinese-roberta-medium"]
    published["chinese_roberta_L-4_H-512"] = presets["uer/chinese-roberta-small"]
    published["chinese_roberta_L-4_H-256"] = presets["uer/chinese-roberta-mini"]
    published["chinese_roberta_L-2_H-128"] = presets["uer/chinese-roberta-tiny"]
    for name, raw in published.items():
        ours = known[name].spec.config.raw
        for key in ours.keys() - {"model_type", "architectures", "layer_norm_eps"}:
            assert raw[key] == ours[key], (name, key)
