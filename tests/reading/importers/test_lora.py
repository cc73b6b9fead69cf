"""LoRA adapters as peft saves them, merged into their base: the oracle computes what peft's model does."""

import json
import shutil

import numpy as np
import pytest

from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers import import_checkpoint
from yizhi.runtimes.base import Inputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = torch.tensor([[2, 17, 9, 30, 8, 3], [2, 5, 44, 3, 0, 0]])
MASK = (IDS != 0).long()


def save(base, folder, class_name="BertForMaskedLM", num_labels=None, **settings):
    """Give a model a LoRA adapter of random numbers, save it alone, and return the model in float64."""
    options = {} if num_labels is None else {"num_labels": num_labels}
    model = getattr(transformers, class_name).from_pretrained(base, attn_implementation="eager", **options)
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["query", "value"], **settings}
    model = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape) * 0.3
            if "magnitude" in name:
                parameter.data = parameter.data.abs() + 0.5
    model.save_pretrained(folder)
    return model.double().eval()


def check(folder, model):
    """Hold the oracle over what was imported to peft's outputs. Merging rounds each weight to float32 once."""
    with torch.no_grad():
        theirs = model(input_ids=IDS, attention_mask=MASK)
    with Checkpoint.open(folder) as checkpoint:
        ours = oracle.run(checkpoint, Inputs.of(IDS.numpy(), MASK.numpy()))
    if "start_logits" in theirs:
        expected = torch.stack([theirs.start_logits, theirs.end_logits], -1)
    else:
        expected = theirs.logits if "logits" in theirs else theirs.last_hidden_state
    found = ours["logits" if "logits" in ours else "last_hidden_state"]
    real = MASK.numpy() == 1 if expected.shape[:2] == MASK.shape else slice(None)
    np.testing.assert_allclose(found[real], expected.numpy()[real], rtol=1e-5, atol=1e-5)
    return checkpoint


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refuse(folder, base, out):
    with pytest.raises(InputError) as caught:
        import_checkpoint(folder, out, base=base)
    assert not out.exists()
    return caught.value.faults


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only", "target_modules": ["query", "dense"]},
        {
            "rank_pattern": {"layer.0.attention.self.query": 2},
            "alpha_pattern": {"query": 11, "1.attention.self.value": 2},
        },
    ],
    ids=["plain", "rslora", "dora", "bias", "bias-of-adapted", "patterns"],
)
def test_is_what_peft_computes(make_checkpoint, tmp_path, settings):
    base = make_checkpoint("bert")
    model = save(base, tmp_path / "lora", **settings)
    report = import_checkpoint(tmp_path / "lora", tmp_path / "out", base=base)
    assert check(tmp_path / "out", model).spec.task == "fill-mask"
    assert "merged into" in report.notes[0]


@pytest.mark.parametrize(
    ("class_name", "task_type", "labels", "task"),
    [
        ("BertForSequenceClassification", "SEQ_CLS", 3, "text-classification"),
        ("BertForTokenClassification", "TOKEN_CLS", 4, "token-classification"),
        ("BertForQuestionAnswering", "QUESTION_ANS", 2, "question-answering"),
        ("BertForSequenceClassification", None, 3, "text-classification"),
        ("BertModel", "FEATURE_EXTRACTION", None, "features"),
    ],
)
def test_head_saved_with_it_replaces_the_base_s(make_checkpoint, tmp_path, class_name, task_type, labels, task):
    base = make_checkpoint("bert")
    head = {} if task_type else {"modules_to_save": ["classifier"]}
    model = save(base, tmp_path / "lora", class_name, labels, task_type=task_type, **head)
    import_checkpoint(tmp_path / "lora", tmp_path / "out", base=base)
    checkpoint = check(tmp_path / "out", model)
    assert checkpoint.spec.task == task
    if labels and task != "question-answering":
        assert checkpoint.spec.head.labels == tuple(f"LABEL_{number}" for number in range(labels))


def test_word_embeddings(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    model = save(base, tmp_path / "one", "BertModel", target_modules=["word_embeddings"])
    import_checkpoint(tmp_path / "one", tmp_path / "out", base=base)
    check(tmp_path / "out", model)
    save(base, tmp_path / "two", target_modules=["word_embeddings"])
    (fault,) = refuse(tmp_path / "two", base, tmp_path / "out2")
    assert "the decoder shares them" in fault


def test_word_embeddings_saved_whole(make_checkpoint, tmp_path):
    """peft leaves the decoder at the base's table, to which it was tied; a reload that tied them again would differ."""
    base = make_checkpoint("bert")
    save(base, tmp_path / "one", modules_to_save=["word_embeddings"])
    (fault,) = refuse(tmp_path / "one", base, tmp_path / "out")
    assert "the decoder shares them" in fault
    model = save(base, tmp_path / "two", "BertModel", modules_to_save=["word_embeddings"])
    import_checkpoint(tmp_path / "two", tmp_path / "out2", base=base)
    check(tmp_path / "out2", model)


def test_tokens_added_before_training(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["新词一", "新词二"])
    model = transformers.BertForMaskedLM.from_pretrained(base, attn_implementation="eager")
    model.resize_token_embeddings(len(tokenizer))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    model.get_base_model().cls.predictions.bias.data[:] = torch.randn(len(tokenizer))
    model.save_pretrained(tmp_path / "lora")
    tokenizer.save_pretrained(tmp_path / "lora")
    import_checkpoint(tmp_path / "lora", tmp_path / "out", base=base)
    checkpoint = check(tmp_path / "out", model.double().eval())
    assert checkpoint.config.vocab_size == len(tokenizer)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("新词一好").input_ids
    assert found == tokenizer("新词一好").input_ids


def test_other_families(make_checkpoint, tmp_path):
    base = make_checkpoint("electra-discriminator")
    model = save(base, tmp_path / "lora", "ElectraForSequenceClassification", 2, task_type="SEQ_CLS")
    import_checkpoint(tmp_path / "lora", tmp_path / "out", base=base)
    assert check(tmp_path / "out", model).spec.task == "text-classification"


def test_weights_and_adapter_in_one_folder(make_checkpoint, tmp_path):
    """AutoModel applies the adapter: the folder alone is refused, and merges when it is named as its own base."""
    base = make_checkpoint("bert")
    model = save(base, tmp_path / "lora")
    both = tmp_path / "both"
    shutil.copytree(base, both)
    for path in (tmp_path / "lora").iterdir():
        shutil.copy(path, both / path.name)
    with pytest.raises(InputError, match="is an adapter: `yizhi import` puts it"):
        Checkpoint.open(both)
    with pytest.raises(InputError, match="is an adapter: `yizhi import` puts it"):
        import_checkpoint(both, tmp_path / "out")
    import_checkpoint(both, tmp_path / "out", base=both)
    check(tmp_path / "out", model)


def test_an_adapter_alone_is_said_to_be_one(make_checkpoint, tmp_path):
    lora = tmp_path / "lora"
    save(make_checkpoint("bert"), lora)
    for read in (Checkpoint.open, lambda folder: import_checkpoint(folder, tmp_path / "out")):
        with pytest.raises(InputError) as caught:
            read(lora)
        (fault,) = caught.value.faults
        assert fault.startswith("adapter_config.json: is an adapter: `yizhi import` puts it into the checkpoint")


def test_tokenizer_saved_with_it_is_used(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    save(base, tmp_path / "lora")
    for name in ("vocab.txt", "tokenizer_config.json"):
        if (base / name).exists():
            shutil.copy(base / name, tmp_path / "lora" / name)
    settings = tmp_path / "lora" / "tokenizer_config.json"
    settings.write_text(json.dumps({"do_lower_case": False, "tokenizer_class": "BertTokenizer"}))
    import_checkpoint(tmp_path / "lora", tmp_path / "out", base=base)
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.text.tokenizer.normalizer.normalize_str("ABC") == "ABC"


def test_everything_wrong_is_told(make_checkpoint, tmp_path):
    base, lora = make_checkpoint("bert"), tmp_path / "lora"
    save(base, lora)
    config = lora / "adapter_config.json"
    before = config.read_text()
    edit(config, init_lora_weights="pissa", lora_alpha="5", layer_replication=[[0, 2]], alpha_pattern={"(": 2})
    faults = refuse(lora, base, tmp_path / "out")
    assert [fault.split(": ")[1] for fault in faults] == [
        "init_lora_weights",
        "layer_replication",
        "lora_alpha",
        "alpha_pattern",
    ]
    config.write_text(before)
    edit(config, peft_type="IA3")
    assert "expected 'LORA'; found 'IA3'" in refuse(lora, base, tmp_path / "out")[0]
    config.write_text(before)
    edit(config, task_type="CAUSAL_LM", auto_mapping=None)
    assert "found 'CAUSAL_LM'" in refuse(lora, base, tmp_path / "out")[0]


def test_adapter_of_another_base(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    other = transformers.BertConfig.from_pretrained(base, hidden_size=48, num_hidden_layers=4)
    transformers.BertForMaskedLM(other).save_pretrained(tmp_path / "other")
    save(tmp_path / "other", tmp_path / "lora")
    faults = refuse(tmp_path / "lora", base, tmp_path / "out")
    assert len(faults) == 4 * 2
    assert "self.query.weight: is for another base: expected [32, 32]; found [48, 48]" in faults[0]
    assert "layer.3.attention.self.value.weight: is for another base: expected no such tensor" in faults[-1]


def test_damaged_pairs(make_checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    base, lora = make_checkpoint("bert"), tmp_path / "lora"
    save(base, lora)
    tensors = load_file(lora / "adapter_model.safetensors")
    names = sorted(tensors)
    del tensors[names[0]]
    tensors[names[2]] = tensors[names[2]][:2]
    tensors["base_model.model.bert.unknown.weight"] = tensors[names[1]]
    save_file(tensors, lora / "adapter_model.safetensors")
    faults = refuse(lora, base, tmp_path / "out")
    assert "expected lora_A [r, inputs] and lora_B [outputs, r]; found lora_B" in faults[0]
    assert "differ in r" in faults[1]


def test_a_folder_that_holds_no_adapter(make_checkpoint, tmp_path):
    base = make_checkpoint("bert")
    (tmp_path / "empty").mkdir()
    assert refuse(tmp_path / "empty", base, tmp_path / "out") == [
        "expected an adapter's folder, with adapter_config.json"
    ]
