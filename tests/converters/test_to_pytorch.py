"""The PyTorch folder as transformers loads it, and the module that runs it."""

import numpy as np
import pytest

from tests.agreement import padded_batch
from tests.artifacts import export_artifact
from yizhi.reading.checkpoint import POOLER, Checkpoint
from yizhi.runtimes import open_runtime

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def export(make_checkpoint, tmp_path):
    return lambda variant: export_artifact(Checkpoint.open(make_checkpoint(variant)), "pytorch", tmp_path / "pytorch")


@pytest.mark.parametrize(
    "variant", ["bert", "bert-untied", "bert-no-pooler", "albert-groups", "electra-generator", "megatron-bert"]
)
def test_auto_model_finds_every_key_and_no_other(export, variant):
    artifact = export(variant)
    model, report = transformers.AutoModelForMaskedLM.from_pretrained(artifact, output_loading_info=True)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    with open_runtime(artifact) as runtime:
        inputs = padded_batch(runtime.config)
        ours = runtime.run(inputs, ["logits"])["logits"]
    with torch.no_grad():
        theirs = model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.as_dict().items()}).logits
    real = inputs.attention_mask == 1
    np.testing.assert_allclose(ours[real], theirs.numpy()[real], rtol=1e-5, atol=1e-5)


def test_the_pooler_comes_with_its_variant(export):
    artifact = export("bert")
    assert (artifact / POOLER).exists()
    model, report = transformers.AutoModel.from_pretrained(artifact, variant="pooler", output_loading_info=True)
    assert not report["missing_keys"]
    ids = torch.tensor([[2, 9, 17, 3]])
    with torch.no_grad(), open_runtime(artifact) as runtime:
        ours = runtime.run({"input_ids": ids.numpy()}, ["pooler_output"])["pooler_output"]
        np.testing.assert_allclose(ours, model.eval()(ids).pooler_output.numpy(), rtol=1e-5, atol=1e-5)


def test_a_headless_encoder_is_one_file(export):
    artifact = export("bert-no-head")
    assert not (artifact / POOLER).exists()
    _, report = transformers.AutoModel.from_pretrained(artifact, output_loading_info=True)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}


def test_state_dict_has_the_checkpoints_names(export, make_checkpoint):
    with open_runtime(export("electra-generator")) as runtime:
        names = set(runtime._module.state_dict())
    checkpoint = Checkpoint.open(make_checkpoint("electra-generator"))
    assert names == {parameter.name for parameter in checkpoint.parameters()}
