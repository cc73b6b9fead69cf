"""InterBERT's oracle against transformers' BERT layers, joined here as its authors' code joins them, in float64."""

import numpy as np
import pytest

from tests.checkpoints import write_variant
from yizhi.parity import oracle
from yizhi.parity.cases import make_cases
from yizhi.reading.checkpoint import Checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.bert import modeling_bert  # noqa: E402 (may be missing)


class InterBert(torch.nn.Module):
    """The text's embeddings and heads are transformers'; the image's are the authors', of linear layers and norms."""

    def __init__(self, raw):
        super().__init__()
        self.raw = raw
        text = transformers.BertConfig(**raw, attn_implementation="eager")
        of_image = transformers.BertConfig(
            **{**raw, "num_attention_heads": raw["v_num_attention_heads"], "hidden_act": raw["v_hidden_act"]},
            attn_implementation="eager",
        )
        of_image.intermediate_size = raw["v_intermediate_size"]
        hidden, pooled = raw["hidden_size"], raw.get("bi_hidden_size", 1024)
        depth = raw["num_hidden_layers"] + raw["t_num_hidden_layers"]
        linear, norm = torch.nn.Linear, torch.nn.LayerNorm
        self.bert = torch.nn.ModuleDict(
            {
                "embeddings": modeling_bert.BertEmbeddings(text),
                "v_embeddings": torch.nn.ModuleDict(
                    {
                        "image_embeddings": linear(raw["v_feature_size"], hidden),
                        "image_location_embeddings": linear(5, hidden),
                        "LayerNorm": norm(hidden, eps=1e-12),
                    }
                ),
                "encoder": torch.nn.ModuleDict(
                    {
                        "layer": torch.nn.ModuleList(modeling_bert.BertLayer(text) for _ in range(depth)),
                        "v_layer": torch.nn.ModuleList(
                            modeling_bert.BertLayer(of_image) for _ in range(raw["v_num_hidden_layers"])
                        ),
                    }
                ),
                "t_pooler": torch.nn.ModuleDict({"dense": linear(hidden, pooled)}),
                "v_pooler": torch.nn.ModuleDict({"dense": linear(hidden, pooled)}),
            }
        )
        self.cls = torch.nn.ModuleDict(
            {
                "predictions": modeling_bert.BertLMPredictionHead(text),
                "imagePredictions": torch.nn.ModuleDict(
                    {
                        "transform": modeling_bert.BertPredictionHeadTransform(text),
                        "decoder": linear(hidden, raw["v_target_size"]),
                    }
                ),
                "bi_seq_relationship": linear(pooled, 2),
            }
        )

    def forward(self, ids, mask, types, features, boxes, image_mask):
        """Every output by Yizhi's name."""
        bert, count = self.bert, features.shape[1]
        parts = bert["v_embeddings"]
        image = parts["LayerNorm"](parts["image_embeddings"](features) + parts["image_location_embeddings"](boxes))
        x = torch.cat([image, bert["embeddings"](input_ids=ids, token_type_ids=types)], dim=1)
        found = {"hidden_states.0": x[:, count:], "image_hidden_states.0": x[:, :count]}
        shared, layers = self.raw["num_hidden_layers"], bert["encoder"]["layer"]
        for number in range(shared):
            x = layers[number](x, self.hide(torch.cat([image_mask, mask], dim=1)))[0]
            found |= {
                f"hidden_states.{number + 1}": x[:, count:],
                f"image_hidden_states.{number + 1}": x[:, :count],
            }
        text, image = x[:, count:], x[:, :count]
        for number in range(shared, len(layers)):
            text = found[f"hidden_states.{number + 1}"] = layers[number](text, self.hide(mask))[0]
        for number, layer in enumerate(bert["encoder"]["v_layer"], shared):
            image = found[f"image_hidden_states.{number + 1}"] = layer(image, self.hide(image_mask))[0]
        pooled, image_pooled = (
            torch.relu(bert[name]["dense"](states[:, 0])) for name, states in (("t_pooler", text), ("v_pooler", image))
        )
        fused = pooled + image_pooled if self.raw.get("fusion_method") == "sum" else pooled * image_pooled
        head = self.cls["imagePredictions"]
        return {
            **found,
            "last_hidden_state": text,
            "image_last_hidden_state": image,
            "pooler_output": pooled,
            "image_pooler_output": image_pooled,
            "logits": self.cls["predictions"](text),
            "region_logits": head["decoder"](head["transform"](image)),
            "match_logits": self.cls["bi_seq_relationship"](fused),
        }

    @staticmethod
    def hide(mask):
        """Their -10000, which exp makes 0 as ours does: the scores here are small."""
        return (1.0 - mask[:, None, None, :].double()) * -10000.0


@pytest.mark.parametrize("variant", ["interbert", "interbert-sum"])
def test_agrees_with_transformers_layers_in_float64(variant, tmp_path):
    checkpoint = Checkpoint.open(write_variant(tmp_path, variant))
    model = InterBert(dict(checkpoint.config.raw)).double().eval()
    state = {parameter.name: torch.tensor(checkpoint.array(parameter.name)) for parameter in checkpoint.parameters()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if not key.endswith("position_ids")]
    compared = set()
    for case in make_cases(checkpoint):
        inputs = case.inputs.complete(checkpoint.config)
        ours = oracle.run(checkpoint, case.inputs)
        with torch.no_grad():
            given = [torch.from_numpy(array) for array in inputs.as_dict().values()]
            theirs = model(*given[:3], given[3].double(), given[4].double(), given[5])
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            real = case.meaningful(meaning_of(name))
            if real.any():
                compared.add(name)
                np.testing.assert_allclose(ours[name][real], expected.numpy()[real], rtol=1e-9, atol=1e-11)
    assert compared == theirs.keys()


def meaning_of(name):
    if name == "match_logits":
        return "pair"
    of_image = name.startswith("image_") or name == "region_logits"
    if name.endswith("pooler_output"):
        return "image" if of_image else "row"
    return "region" if of_image else "token"
