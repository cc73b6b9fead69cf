"""PaddleNLP's `.pdparams`: the same numbers under other names, and a pickle that can do nothing but hold arrays."""

import io
import json
import os
import pickle
import re
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from tests.reading.importers.foreign_files import assert_same_checkpoint, copy_beside, make_zip, read_tensors, save_bin
from yizhi.errors import InputError
from yizhi.reading.importers import array_pickle, import_checkpoint

# Canonical -> PaddleNLP's, written apart from the importer.
SPELLINGS = {
    r"encoder\.layer\.": "encoder.layers.",
    r"attention\.self\.(query|key|value)": lambda found: f"self_attn.{found[1][0]}_proj",
    r"attention\.output\.dense": "self_attn.out_proj",
    r"attention\.output\.LayerNorm": "norm1",
    r"intermediate\.dense": "linear1",
    r"(layers\.\d+)\.output\.dense": r"\1.linear2",
    r"(layers\.\d+)\.output\.LayerNorm": r"\1.norm2",
    r"embeddings\.LayerNorm": "embeddings.layer_norm",
    r"predictions\.transform\.dense": "predictions.transform",
    r"predictions\.transform\.LayerNorm": "predictions.layer_norm",
    r"predictions\.bias": "predictions.decoder_bias",
    r"predictions\.decoder\.weight": "predictions.decoder_weight",
}


def paddle_name(name):
    for ours, theirs in SPELLINGS.items():
        name = re.sub(ours, theirs, name)
    return name


def paddle_state(tensors):
    """What `paddle.save` is given: kernels [inputs, outputs], the decoder beside the embeddings, a table of names."""
    state = OrderedDict()
    for name, array in tensors.items():
        is_kernel = array.ndim == 2 and "embeddings" not in name and "decoder" not in name
        state[paddle_name(name)] = np.ascontiguousarray(array.T if is_kernel else array)
    table = next((array for name, array in tensors.items() if name.endswith("word_embeddings.weight")))
    if any(name.startswith("cls.") for name in tensors):
        state.setdefault("cls.predictions.decoder_weight", table)
        state["cls.seq_relationship.weight"] = np.ones((table.shape[1], 2), np.float32)
    state["StructuredToParameterName@@"] = {name: f"linear_{index}" for index, name in enumerate(state)}
    return state


def write(folder: Path, state, protocol=4) -> Path:
    path = folder / "model_state.pdparams"
    path.write_bytes(pickle.dumps(state, protocol))
    return path


def refuse(source: Path, out: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        import_checkpoint(source, out, **options)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("variant", ["bert", "ernie"])
def test_the_same_numbers(make_checkpoint, tmp_path, variant, protocol):
    checkpoint = make_checkpoint(variant)
    tensors, config = read_tensors(checkpoint)
    folder = copy_beside(checkpoint, tmp_path / "paddle", config)
    settings = {"do_lower_case": True, "tokenizer_class": "ErnieTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write(folder, paddle_state(tensors), protocol)
    report = import_checkpoint(folder, tmp_path / "out")
    found, _ = read_tensors(tmp_path / "out")
    assert list(found) == list(tensors)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert report.ignored["cls.seq_relationship.weight"].startswith("the next-sentence")
    assert report.counts()["transposed"] > 0
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"


def test_an_old_configuration_names_the_class_and_nests_the_sizes(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("bert-classifier")
    tensors, config = read_tensors(checkpoint)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    base = {key: config[key] for key in (*sizes, "hidden_act")}
    old = {
        "init_args": [{**base, "init_class": "BertModel"}],
        "init_class": "BertForSequenceClassification",
        "num_classes": 3,
    }
    folder = copy_beside(checkpoint, tmp_path / "paddle", old, "model_config.json")
    write(folder, paddle_state(tensors))
    import_checkpoint(folder, tmp_path / "out")
    found, written = read_tensors(tmp_path / "out")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert (written["model_type"], written["num_labels"]) == ("bert", 3)
    assert (written["intermediate_size"], written["type_vocab_size"]) == (
        config["intermediate_size"],
        config["type_vocab_size"],
    )


def test_an_encoder_saved_alone_has_no_prefix(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("bert-no-head")
    tensors, config = read_tensors(checkpoint)
    folder = copy_beside(checkpoint, tmp_path / "paddle", {**config, "architectures": ["BertModel"]})
    state = paddle_state(tensors)
    write(folder, {name.removeprefix("bert."): value for name, value in state.items()})
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", checkpoint)


def test_bfloat16_is_widened(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("bert")
    tensors, config = read_tensors(checkpoint)
    folder = copy_beside(checkpoint, tmp_path / "paddle", config)
    state = paddle_state(tensors)
    name = "bert.embeddings.word_embeddings.weight"
    short = (state[name].view(np.uint32) >> 16).astype(np.uint16)
    write(folder, {**state, name: short, "cls.predictions.decoder_weight": short})
    import_checkpoint(folder, tmp_path / "out")
    found, _ = read_tensors(tmp_path / "out")
    np.testing.assert_array_equal(found[name], (short.astype(np.uint32) << 16).view(np.float32))


class Payload:
    """Unpickled in the usual way, it makes a file."""

    def __init__(self, path: Path, call=os.system, prefix: str = "touch ") -> None:
        self.path, self.call, self.prefix = path, call, prefix

    def __reduce__(self):
        return self.call, (f"{self.prefix}{self.path}",)


@pytest.mark.parametrize("where", ["value", "key's neighbour", "in a zip"])
def test_a_payload_is_refused_by_name_and_does_not_run(make_checkpoint, tmp_path, where):
    touched = tmp_path / "touched"
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "release")
    state = {"x": Payload(touched)} if where == "value" else {"x": np.zeros(2), "y": [Payload(touched)]}
    path = write(folder, state)
    source = make_zip(tmp_path / "release.zip", folder) if where == "in a zip" else folder
    told = refuse(source, tmp_path / "out")
    assert f"asks for {os.system.__module__}.system, which is no array; nothing in it was run" in told
    assert not touched.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert touched.exists()


@pytest.mark.parametrize("call", [eval, exec, open, np.load, np.frombuffer, getattr, zlib.compress, type])
def test_no_other_name_is_given_out(tmp_path, make_checkpoint, call):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "release")
    write(folder, {"x": Payload(tmp_path / "touched", call, "")})
    assert re.search(r"asks for [\w.]+, which is no array", refuse(folder, tmp_path / "out"))


def test_a_file_cannot_alter_what_reads_the_next():
    """BUILD sets attributes of a function that was given out, which nobody is given again."""
    # GLOBAL numpy.dtype, BUILD with (None, {"__kwdefaults__": {}}), POP; then an empty dictionary is the result.
    data = b"\x80\x04cnumpy\ndtype\n(N}X\x0e\x00\x00\x00__kwdefaults__}stb0}."
    given = []

    class Spy(array_pickle._Arrays):
        def find_class(self, module, name):
            given.append(super().find_class(module, name))
            return given[-1]

    assert Spy(io.BytesIO(data)).load() == {}
    assert given[0].__kwdefaults__ == {}
    assert Spy(io.BytesIO(b"\x80\x04cnumpy\ndtype\n.")).load().__kwdefaults__ is None


def test_what_is_no_array(tmp_path, make_checkpoint):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "release")
    for content, fault in {
        b"": "damaged",
        b"not a pickle": "damaged",
        pickle.dumps([np.zeros(2)]): "expected a dictionary of arrays; found list",
        pickle.dumps({"a": 1, "b": np.zeros(2)}): "'a': expected an array; found int",
        pickle.dumps({1: np.zeros(2)}): "1: expected an array",
        pickle.dumps({"a": np.array([{}])}): "expected numbers; found dtype 'O8'",
        pickle.dumps({"a": np.array(["北"])}): "expected numbers; found dtype 'U1'",
        pickle.dumps({"a": np.zeros(2, np.float32)}): "a [2]: not a known name",
    }.items():
        (folder / "model_state.pdparams").write_bytes(content)
        assert fault in refuse(folder, tmp_path / "out")


def test_a_cut_file(tmp_path, make_checkpoint):
    checkpoint = make_checkpoint("bert")
    folder = copy_beside(checkpoint, tmp_path / "release")
    data = write(folder, paddle_state(read_tensors(checkpoint)[0])).read_bytes()
    for size in (1, 100, len(data) // 2, len(data) - 1):
        (folder / "model_state.pdparams").write_bytes(data[:size])
        assert "damaged" in refuse(folder, tmp_path / "out")
    lying = io.BytesIO()
    pickle.Pickler(lying, 4).dump({"a": np.zeros(4, np.float32)})
    (folder / "model_state.pdparams").write_bytes(lying.getvalue().replace(b"K\x04\x85", b"K\x05\x85"))
    assert "damaged" in refuse(folder, tmp_path / "out")


def test_another_class_is_refused_by_name(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("bert")
    folder = copy_beside(checkpoint, tmp_path / "paddle", {"init_class": "ErnieMModel"}, "model_config.json")
    write(folder, paddle_state(read_tensors(checkpoint)[0]))
    told = "init_class: expected ErnieModel, BertModel or one of their tasks; found 'ErnieMModel'"
    assert told in refuse(folder, tmp_path / "out")
    (folder / "model_config.json").write_text('{"init_class": "BertForQuestionAnswering"}')
    assert "BertForQuestionAnswering is not read: its head is called classifier" in refuse(folder, tmp_path / "out")


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_fairseq_is_refused_by_name(make_checkpoint, tmp_path, side):
    pytest.importorskip("torch")
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "fairseq")
    save_bin(folder / "pytorch_model.bin", {f"{side}.sentence_encoder.embed_tokens.weight": np.zeros((2, 2), "f4")})
    told = refuse(folder, tmp_path / "out")
    assert f"is fairseq's RoBERTa or XLM-R, known by {side}.sentence_encoder.embed_tokens.weight" in told
    assert "such as FacebookAI/xlm-roberta-base" in told
