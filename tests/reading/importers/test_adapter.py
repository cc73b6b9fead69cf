"""Adapters as the `adapters` library saves them, put into their base: the oracle computes what the library does."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers import import_checkpoint
from yizhi.reading.importers.adapter import REPLACED
from yizhi.runtimes.base import Inputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
adapters = pytest.importorskip("adapters")

IDS = torch.tensor([[2, 17, 9, 30, 8, 3], [2, 5, 44, 3, 0, 0]])
MASK = (IDS != 0).long()
LABELS = {0: "差", 1: "中", 2: "好"}


def randomize(model):
    """Every parameter: the library's up-projections are zeros to begin with, and would hide everything before them."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".adapters." in name or "heads." in name or name.startswith(("classifier", "qa_outputs")):
            parameter.data = torch.randn(parameter.shape) * 0.3


def save(model, folder: Path, name: str = "senti", config="double_seq_bn", head=None, **options) -> Path:
    """Give a model an adapter, save it alone, and return the folder; the model is left in float64."""
    model.add_adapter(name, config=config)
    if head:
        getattr(model, f"add_{head.pop('kind')}_head")(name, **head)
    model.set_active_adapters(name)
    randomize(model)
    model.save_adapter(str(folder), name, **options)
    model.double().eval()
    return folder


def outputs_of(model):
    with torch.no_grad():
        return model(IDS, attention_mask=MASK, output_hidden_states=True)


def check(folder: Path, theirs, *, logits: bool = True) -> Checkpoint:
    """Open what was imported and hold the oracle to the library's outputs."""
    checkpoint = Checkpoint.open(folder)
    ours = oracle.run(checkpoint, Inputs.of(IDS.numpy(), MASK.numpy()))
    real = MASK.numpy() == 1
    for number, expected in enumerate(theirs.hidden_states):
        np.testing.assert_allclose(ours[f"hidden_states.{number}"][real], expected.numpy()[real], rtol=1e-9, atol=1e-11)
    if logits:
        if "start_logits" in theirs:
            expected = np.stack([theirs.start_logits.numpy(), theirs.end_logits.numpy()], -1)
        else:
            expected = theirs.logits.numpy()
        compared = real if expected.shape[:2] == real.shape else slice(None)
        np.testing.assert_allclose(ours["logits"][compared], expected[compared], rtol=1e-9, atol=1e-11)
    return checkpoint


def load(class_name: str, folder: Path, **options):
    owner = transformers if hasattr(transformers, class_name) else adapters
    model = getattr(owner, class_name).from_pretrained(folder, attn_implementation="eager", **options)
    if owner is transformers:
        adapters.init(model)
    return model


@pytest.mark.parametrize("safetensors", [False, True])
def test_without_a_head_the_base_keeps_its_own(make_checkpoint, tmp_path, safetensors):
    base = make_checkpoint("bert")
    model = load("BertForMaskedLM", base)
    folder = save(model, tmp_path / "adapter", config="seq_bn", use_safetensors=safetensors, with_head=False)
    report = import_checkpoint(base, tmp_path / "out", adapter=folder)
    checkpoint = check(tmp_path / "out", outputs_of(model))
    assert checkpoint.spec.task == "fill-mask"
    assert report.ignored == {}
    assert report.notes[0].startswith("adapter senti, of adapters.")
    assert report.notes[1] == "head: the base's (fill-mask); none was saved with the adapter"


def test_head_of_a_transformers_class_replaces_the_base_s(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    model = load("BertForSequenceClassification", base, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
    config = adapters.SeqBnConfig(ln_before=True, ln_after=True, scaling="channel", leave_out=[1], reduction_factor=4)
    folder = save(model, tmp_path / "adapter", "sentiment/hotel@ours", config)
    report = import_checkpoint(base, tmp_path / "out", adapter=folder)
    checkpoint = check(tmp_path / "out", outputs_of(model))
    assert checkpoint.spec.head.labels == ("差", "中", "好")
    assert checkpoint.config.adapter.name == "sentiment_hotel_ours"
    assert report.ignored["cls.predictions.bias"] == REPLACED
    assert "(there sentiment/hotel@ours)" in report.notes[0]


FLEXIBLE = {
    "bert-pooled": ("bert", "BertAdapterModel", {"kind": "classification", "layers": 1, "use_pooler": True}),
    "bert-classifier": ("bert", "BertAdapterModel", {"kind": "classification", "num_labels": 3, "id2label": LABELS}),
    "bert-multi-label": ("bert", "BertAdapterModel", {"kind": "classification", "num_labels": 3, "multilabel": True}),
    "bert-reader": ("bert", "BertAdapterModel", {"kind": "qa"}),
    "albert-classifier": ("albert-groups", "AlbertAdapterModel", {"kind": "classification", "num_labels": 3}),
    "albert-tagger": ("albert-groups", "AlbertAdapterModel", {"kind": "tagging", "num_labels": 3, "id2label": LABELS}),
    "electra-classifier": (
        "electra-discriminator",
        "ElectraAdapterModel",
        {"kind": "classification", "num_labels": 3, "activation_function": "gelu"},
    ),
    "electra-tagger": ("electra-discriminator", "ElectraAdapterModel", {"kind": "tagging", "num_labels": 3}),
}


@pytest.mark.parametrize("case", FLEXIBLE)
def test_heads_of_the_library_s_own(make_checkpoint, tmp_path, case):
    variant, class_name, head = FLEXIBLE[case]
    base = make_checkpoint(variant)
    model = load(class_name, base)
    folder = save(model, tmp_path / "adapter", head=dict(head))
    import_checkpoint(base, tmp_path / "out", adapter=folder)
    checkpoint = check(tmp_path / "out", outputs_of(model))
    if "id2label" in head:
        assert checkpoint.spec.head.labels == ("差", "中", "好")
    if head.get("multilabel"):
        assert checkpoint.spec.head.problem_type == "multi_label_classification"


def test_what_the_library_saves_whole_is_a_checkpoint_already(make_checkpoint, tmp_path):
    base = make_checkpoint("electra-tagger")
    model = load("ElectraForTokenClassification", base)
    save(model, tmp_path / "adapter", config="par_bn")
    theirs = outputs_of(model)
    model.float().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "vocab.txt").write_bytes((base / "vocab.txt").read_bytes())
    check(tmp_path / "whole", theirs)


def test_the_result_loads_into_the_library(make_checkpoint, tmp_path):
    """Our checkpoint is what the library's save_pretrained writes."""
    base = make_checkpoint("bert")
    model = load("BertForSequenceClassification", base, num_labels=3)
    import_checkpoint(base, tmp_path / "out", adapter=save(model, tmp_path / "adapter"))
    again = adapters.AutoAdapterModel.from_pretrained(tmp_path / "out", attn_implementation="eager").double().eval()
    again.set_active_adapters("senti")
    np.testing.assert_allclose(outputs_of(again).logits.numpy(), outputs_of(model).logits.numpy(), rtol=1e-12)


def test_a_class_without_adapters_says_what_it_leaves_out(make_checkpoint, tmp_path):
    """The PyTorch artifact is the whole model to the library, and its base to transformers alone, with a warning."""
    base = make_checkpoint("bert-classifier")
    model = load("BertForSequenceClassification", base)
    import_checkpoint(base, tmp_path / "out", adapter=save(model, tmp_path / "adapter"))
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        artifact = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")
    again = adapters.AutoAdapterModel.from_pretrained(artifact, attn_implementation="eager").double().eval()
    again.set_active_adapters("senti")
    np.testing.assert_allclose(outputs_of(again).logits.numpy(), outputs_of(model).logits.numpy(), rtol=1e-12)
    load_plain = transformers.AutoModelForSequenceClassification.from_pretrained
    plain, loading = load_plain(artifact, attn_implementation="eager", output_loading_info=True)
    assert all(".adapters.senti." in key for key in loading["unexpected_keys"])
    assert len(loading["unexpected_keys"]) == 3 * 2 * 4
    model.set_active_adapters(None)
    np.testing.assert_allclose(outputs_of(plain.double()).logits.numpy(), outputs_of(model).logits.numpy(), rtol=1e-12)


# --- what is refused, all faults at once


@pytest.fixture
def saved(make_checkpoint, tmp_path):
    """A base and an adapter for it."""
    base = make_checkpoint("bert")
    return base, save(load("BertForMaskedLM", base), tmp_path / "adapter")


def refuse(base: Path, folder: Path, out: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        import_checkpoint(base, out, adapter=folder)
    assert caught.value.subject == str(folder)
    assert not out.exists()
    return caught.value.faults


def edit(path: Path, **changes) -> None:
    raw = json.loads(path.read_text())
    raw["config"] |= changes
    path.write_text(json.dumps(raw))


def test_an_adapter_for_another_base(saved, tmp_path):
    _, folder = saved
    other = write_variant(tmp_path / "other", "albert", config={"hidden_size": 64})
    assert refuse(other, folder, tmp_path / "out") == [
        "adapter_config.json: is for another base: model_type: expected 'albert', as the base has; found 'bert'",
        "adapter_config.json: is for another base: hidden_size: expected 64, as the base has; found 32",
        "head_config.json: model_class: expected one of AlbertForMaskedLM, AlbertForPreTraining, "
        "AlbertForSequenceClassification, AlbertForTokenClassification, AlbertForQuestionAnswering; found "
        "'BertForMaskedLM'. Without head_config.json the base's head is kept",
    ]


@pytest.mark.parametrize(("layers", "place"), [(2, "layer.2.attention.output is not of this base"), (4, "has none")])
def test_an_adapter_for_another_number_of_layers(saved, tmp_path, layers, place):
    _, folder = saved
    other = write_variant(tmp_path / "other", "bert", config={"num_hidden_layers": layers})
    (fault,) = refuse(other, folder, tmp_path / "out")
    assert f"expected adapters named senti in {2 * layers} places" in fault
    assert "found 6: " in fault
    assert fault.endswith(place)


def test_every_setting_that_is_not_supported_is_named(saved, tmp_path):
    base, folder = saved
    changes = {"inv_adapter": "nice", "phm_layer": True, "use_gating": True, "non_linearity": "mish"}
    edit(folder / "adapter_config.json", **changes, scaling="sideways", residual_before_ln="post_add", novelty=1)
    faults = refuse(base, folder, tmp_path / "out")
    found = ["inv_adapter", "phm_layer", "use_gating", "'novelty'", "residual_before_ln", "non_linearity", "scaling"]
    assert [fault.split(": ")[2] for fault in faults] == found


def test_a_wrong_reduction_factor_is_told_by_tensor(saved, tmp_path):
    base, folder = saved
    edit(folder / "adapter_config.json", reduction_factor=8)
    faults = refuse(base, folder, tmp_path / "out")
    assert "bert.encoder.layer.0.output.adapters.senti.adapter_up.weight: expected [32, 4]; found [32, 2]" in faults
    assert len(faults) == 3 * 2 * 3


def test_other_methods_and_other_libraries(make_checkpoint, saved, tmp_path):
    base, folder = saved
    model = load("BertForMaskedLM", base)
    lora = save(model, tmp_path / "lora", config="lora")
    (fault,) = refuse(base, lora, tmp_path / "out")
    assert fault == "adapter_config.json: config: architecture: expected a bottleneck adapter; found 'lora'"
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert refuse(base, folder, tmp_path / "out") == [
        "adapter_config.json: peft_type: expected 'LORA'; found 'IA3', which is not merged here",
        "adapter_model.bin: the file is missing, and so is adapter_model.safetensors",
    ]


def test_a_head_without_counterpart(make_checkpoint, tmp_path):
    base = make_checkpoint("electra-discriminator")
    head = {"kind": "classification", "num_labels": 2}
    folder = save(load("ElectraAdapterModel", base), tmp_path / "adapter", head=head)
    assert refuse(base, folder, tmp_path / "out") == [
        "head_config.json: a classification head for Electra: expected layers 2 with 'gelu' between, use_pooler false, "
        "with bias; found layers 2 with 'tanh' between, use_pooler false. "
        "Without head_config.json the base's head is kept"
    ]


def test_files_that_are_missing(saved, tmp_path):
    base, folder = saved
    (folder / "pytorch_adapter.bin").unlink()
    (folder / "pytorch_model_head.bin").unlink()
    assert refuse(base, folder, tmp_path / "out") == [
        "pytorch_adapter.bin: the file is missing, and so is adapter.safetensors",
        "pytorch_model_head.bin: the file is missing, and so is model_head.safetensors",
    ]
    assert (
        "expected an adapter's folder, with adapter_config.json" in refuse(base, tmp_path / "none", tmp_path / "out")[0]
    )


def test_one_adapter_is_enough(saved, tmp_path):
    base, folder = saved
    import_checkpoint(base, tmp_path / "once", adapter=folder)
    (fault,) = refuse(tmp_path / "once", folder, tmp_path / "out")
    assert fault == "adapter_config.json: the base has an adapter already, senti; a graph computes one"
