"""The training loop: the same losses after an interruption, the best weights kept, decay only where it belongs."""

import pytest

from converters.checkpoint import Checkpoint
from runtimes.tokenization import Tokenizer
from training.settings import Settings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from training import loop, models  # noqa: E402
from training.batches import Feature, LengthGroupedBatches, collate  # noqa: E402

TEXTS = ["北京", "天地好", "酒店的服务很好", "房间干净", "早餐", "学习机器语言模型", "山水", "花月春风雨", "我你他"] * 2


def features_of(folder):
    rows = Tokenizer.open(folder).tokenize(TEXTS)
    return [Feature(row, {"labels": len(row.ids) % 2}) for row in rows]


def fine_tune(folder, work, goal=None, callback=None, **changes):
    settings = Settings(
        **{"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "evaluate_every": 3, **changes}
    )
    loop.seed_everything(settings)
    with Checkpoint.open(folder) as checkpoint:
        model, _ = models.build_model(checkpoint, "ForSequenceClassification", {"id2label": {"0": "短", "1": "长"}})
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
