"""The training loop: the same losses after an interruption, the best weights kept, decay only where it belongs."""

import numpy as np
import pytest

from tests.checkpoints import VOCAB, open_tokenizer
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.features import IGNORED, Feature
from yizhi.training.settings import Settings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from yizhi.training import loop, transformers_models  # noqa: E402
from yizhi.training.batches import LengthGroupedBatches, collate  # noqa: E402

pytestmark = pytest.mark.slow

TEXTS = ["北京", "天地好", "酒店的服务很好", "房间干净", "早餐", "学习机器语言模型", "山水", "花月春风雨", "我你他"] * 2


def features_of(folder):
    rows = Tokenizer.open(folder).tokenize(TEXTS)
    return [Feature(row, targets={"labels": len(row.ids) % 2}) for row in rows]


def fine_tune(folder, work, goal=None, callback=None, **changes):
    settings = Settings(
        **{"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "evaluate_every": 3, **changes}
    )
    loop.seed_everything(settings)
    with Checkpoint.open(folder) as checkpoint:
        model, _ = transformers_models.build_model(
            checkpoint, "ForSequenceClassification", {"id2label": {"0": "短", "1": "长"}}
        )
    features = features_of(folder)
    batches = LengthGroupedBatches([feature.length for feature in features], settings.batch_size, settings.seed)
    history = loop.train(model, features, batches, lambda rows: collate(rows, 0), settings, work, goal, callback or [])
    return model, history


class StopAt(transformers.TrainerCallback):
    """Dies as a killed process does: at once, without saving."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def losses(history):
    return [(entry["step"], entry["loss"]) for entry in history.log if "loss" in entry]


def test_interrupted_training_goes_on_with_the_same_losses(make_checkpoint, tmp_path):
    folder = make_checkpoint("bert", config={"hidden_dropout_prob": 0.1})
    whole, expected = fine_tune(folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(folder, tmp_path / "work", callback=[StopAt(8)])
    (tmp_path / "work" / "checkpoint-6" / "optimizer.pt").stat()
    resumed, found = fine_tune(folder, tmp_path / "work")
    assert found.resumed_at == 6  # the second of five batches of an epoch
    assert losses(found) == losses(expected)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_state_that_was_being_written_is_passed_over(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    with pytest.raises(KeyboardInterrupt):
        fine_tune(folder, tmp_path / "work", callback=[StopAt(8)])
    for name in ("checkpoint-7", "checkpoint-8"):
        (tmp_path / "work" / name).mkdir()
    (tmp_path / "work" / "checkpoint-7" / "trainer_state.json").write_text('{"half": ')
    assert loop.find_state(tmp_path / "work").name == "checkpoint-6"
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["checkpoint-3", "checkpoint-6"]


def test_the_best_weights_are_kept_and_training_stops_when_patience_ends(make_checkpoint, tmp_path):
    seen = []

    def measure(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"loss": 1.0, "f1": [0.1, 0.5, 0.4, 0.3, 0.9][len(seen) - 1]}

    model, history = fine_tune(make_checkpoint(), tmp_path / "work", loop.Goal(measure, "f1"), patience=2)
    assert len(seen) == 4
    assert (history.steps, history.best_step) == (12, 6)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, seen[1][name], rtol=0, atol=0)
    assert [entry["eval_f1"] for entry in history.log if "eval_f1" in entry] == [0.1, 0.5, 0.4, 0.3]


def test_biases_and_layer_norms_do_not_decay(make_checkpoint, tmp_path):
    decayed = {}

    class Look(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **_):
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            for group in optimizer.param_groups:
                decayed.update({names[id(parameter)]: group["weight_decay"] for parameter in group["params"]})

    model, _ = fine_tune(make_checkpoint(), tmp_path / "work", callback=[Look()], max_steps=1, weight_decay=0.3)
    assert decayed.keys() == dict(model.named_parameters()).keys()
    for name, decay in decayed.items():
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.3), name


def test_warm_up_accumulation_and_steps(make_checkpoint, tmp_path):
    _, history = fine_tune(make_checkpoint(), tmp_path / "work", max_steps=10, warmup=0.5, accumulation=2)
    rates = [entry["learning_rate"] for entry in history.log if "learning_rate" in entry]
    np.testing.assert_allclose(rates, [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 8e-4, 6e-4, 4e-4, 2e-4], rtol=1e-6)


def test_bf16_trains_and_leaves_a_float32_model(make_checkpoint, tmp_path):
    model, history = fine_tune(make_checkpoint(), tmp_path / "work", precision="bf16", max_steps=4)
    _, exact = fine_tune(make_checkpoint(), tmp_path / "exact", max_steps=4)
    assert losses(history) != losses(exact)
    np.testing.assert_allclose(losses(history), losses(exact), rtol=0.05)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, type(model).forward(model, **inputs).logits, rtol=0, atol=0)


def test_batches_are_all_rows_once_of_similar_length_and_the_same_again():
    lengths = np.random.default_rng(0).integers(3, 200, 1000).tolist()
    batches = LengthGroupedBatches(lengths, 8, seed=1)
    first = list(batches)
    assert len(first) == len(batches) == 125
    assert sorted(index for batch in first for index in batch) == list(range(1000))
    padding = 1 - sum(lengths) / sum(max(lengths[i] for i in batch) * len(batch) for batch in first)
    assert padding < 0.05
    assert max(lengths) in {lengths[i] for i in first[0]}
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    again = LengthGroupedBatches(lengths, 8, seed=1)
    again.set_epoch(1)
    assert list(again) == list(batches)


def test_padding_of_rows_and_targets():
    rows = open_tokenizer(VOCAB, 64).tokenize(TEXTS[:2])
    features = [Feature(row, 0, {"start_positions": 1}, {"labels": range(len(row.ids))}) for row in rows]
    batch = collate(features, pad_id=0, multiple=8)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["attention_mask"].sum(1).tolist() == [4, 5]
    assert batch["labels"].tolist() == [[0, 1, 2, 3, *[IGNORED] * 4], [0, 1, 2, 3, 4, *[IGNORED] * 3]]
    assert batch["start_positions"].tolist() == [1, 1]
    assert batch["start_positions"].dtype == torch.int64


def test_settings_that_mean_nothing_are_told_together():
    with pytest.raises(InputError) as caught:
        Settings(epochs=0, learning_rate=0, warmup=1, weight_decay=-1, precision="fp16", seed=-1)
    assert len(caught.value.faults) == 6


def test_cuda_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        loop.choose_device(Settings(device="cuda"))


def test_accumulated_batches_weigh_as_much_as_one(make_checkpoint, tmp_path):
    """transformers 5 leaves the division to models that are told the count, and BERT's heads do not divide by it."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    base = make_checkpoint("bert", config=still)
    found = {}
    for size, accumulation in ((len(TEXTS), 1), (len(TEXTS) // 2, 2)):
        changes = {"batch_size": size, "accumulation": accumulation, "epochs": 1, "evaluate_every": None}
        _, history = fine_tune(base, tmp_path / str(size), **changes)
        found[size] = [(entry["loss"], entry["grad_norm"]) for entry in history.log if "loss" in entry]
    one, accumulated = found.values()
    assert accumulated[0] == pytest.approx(one[0], rel=1e-3)
