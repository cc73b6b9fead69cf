"""Ten lines that load an artifact without Yizhi, for its model card. Tests run them in the artifact's folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yizhi.errors import printable
from yizhi.storage.json_files import read_json_object

_QUESTION = '"首都是哪里？", "北京是中国的首都。"'
_TEXT = '"北京是中国的首都。"'
# Families whose classes return keys and values for the next step, too, unless they are told not to.
DECODERS = ("qwen2", "qwen3")
# What transformers and optimum call a head, by our name of its task.
_CLASSES = {
    "fill-mask": "MaskedLM",
    "text-generation": "CausalLM",
    "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "replaced-token-detection": "PreTraining",
}

_PYTORCH = """\
from transformers import AutoTokenizer, {loader}

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {loader}.from_pretrained(folder{options}).eval()
outputs = model(**tokenizer({text}, return_tensors="pt"))
print({{name: values.shape for name, values in outputs.items()}})
"""

_PYTORCH_GENERATION = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
ids = model.generate(tokenizer({text}, return_tensors="pt").input_ids, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(ids[0]))
"""

_TENSORFLOW = """\
import tensorflow as tf
from tokenizers import Tokenizer

folder = "."  # where this file is
encoding = Tokenizer.from_file(f"{{folder}}/tokenizer.json").encode({text})
model = tf.saved_model.load(folder).signatures["serving_default"]
ids, types = tf.constant([encoding.ids]), tf.constant([encoding.type_ids])
outputs = model(input_ids=ids, attention_mask=tf.ones_like(ids), token_type_ids=types)
print({{name: values.shape for name, values in outputs.items()}})
"""

_FLAX = """\
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

folder = "."  # where this file is
with open(f"{folder}/flax_model.msgpack", "rb") as file:
    parameters = msgpack_restore(file.read())
for path, array in flatten_dict(parameters, sep="/").items():
    print(path, array.shape)
"""

_ONNX = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = "."  # where this file is
encoding = Tokenizer.from_file(f"{{folder}}/tokenizer.json").encode({text})
session = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
given = {{"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}}
outputs = session.run(None, {{name: np.array([values], np.int64) for name, values in given.items()}})
print({{output.name: values.shape for output, values in zip(session.get_outputs(), outputs)}})
"""

# Greedy: each time the token of the highest logit. The cache first holds nothing, and then every token but the newest.
_ONNX_STEP = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer
tokenizer, step = Tokenizer.from_file("tokenizer.json"), onnxruntime.InferenceSession("step.onnx")  # of this folder
ids, past = tokenizer.encode({text}).ids, {{one.name: {nothing} for one in step.get_inputs()[2:]}}
for seen in (0, *range(len(ids), len(ids) + 19)):  # what the cache holds
    given = {{"input_ids": np.array([ids[seen:]]), "attention_mask": np.ones((1, len(ids)), np.int64)}}
    logits, *present = step.run(None, {{**given, **past}})
    ids, past = [*ids, int(logits[0, -1].argmax())], dict(zip(past, present))
print(tokenizer.decode(ids))
"""

_LITERT = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer

folder = "."  # where this file is
encoding = Tokenizer.from_file(f"{{folder}}/tokenizer.json").encode({text})
model = Interpreter(f"{{folder}}/model.tflite").get_signature_runner("serving_default")
given = {{"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}}
outputs = model(**{{name: np.array([values], np.int32) for name, values in given.items()}})
print({{name: values.shape for name, values in outputs.items()}})
"""

_OPTIMUM = """\
from optimum.onnxruntime import {loader}
from transformers import AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {loader}.from_pretrained(folder, file_name="model.onnx")
outputs = model(**tokenizer({text}, return_tensors="pt"))
print({{name: values.shape for name, values in outputs.items()}})
"""

_OPENVINO = """\
import numpy as np
import openvino
from tokenizers import Tokenizer

folder = "."  # where this file is
encoding = Tokenizer.from_file(f"{{folder}}/tokenizer.json").encode({text})
model = openvino.compile_model(f"{{folder}}/openvino_model.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
given = {{"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}}
outputs = model({{name: np.array([values], np.int64) for name, values in given.items()}})
print({{output.any_name: values.shape for output, values in outputs.items()}})
"""

_OPTIMUM_INTEL = """\
from optimum.intel import {loader}
from transformers import AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {loader}.from_pretrained(folder, ov_config={{"INFERENCE_PRECISION_HINT": "f32"}}{options})
outputs = model(**tokenizer({text}, return_tensors="pt"))
print({{name: values.shape for name, values in outputs.items()}})
"""

# No library has a class for a model with an image stream.
_SAFETENSORS = """\
from safetensors.torch import load_file

folder = "."  # where this file is
for name, tensor in load_file(f"{folder}/model.safetensors").items():
    print(name, tuple(tensor.shape))
"""

_WITH_IMAGE = """\
import numpy as np
{imports}
from tokenizers import Tokenizer

folder = "."  # where this file is
ids = np.array([Tokenizer.from_file(f"{{folder}}/tokenizer.json").encode({text}).ids], np.{integers})
given = {{"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}}
given |= {{"image_features": np.zeros((1, 3, {size}), "f4"), "image_boxes": np.zeros((1, 3, 5), "f4")}}  # 3 regions
model = {model}
print([values.shape for values in {call}])
"""
_MASKED = '{**given, "image_mask": np.ones((1, 3), ids.dtype)}'
# Of each tool: what it imports, its integers, how it opens the folder, and the outputs' arrays.
_TOOLS_WITH_IMAGE = {
    "tensorflow": (
        *("TensorFlow", "import tensorflow as tf", "int32"),
        'tf.saved_model.load(folder).signatures["serving_default"]',
        f"model(**{_MASKED}).values()",
    ),
    "onnx": (
        *("ONNX Runtime", "import onnxruntime", "int64"),
        'onnxruntime.InferenceSession(f"{folder}/model.onnx")',
        f"model.run(None, {_MASKED})",
    ),
    "openvino": (
        *("OpenVINO", "import openvino", "int64"),
        'openvino.compile_model(f"{folder}/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        f"model({_MASKED}).values()",
    ),
    "litert": (
        *("LiteRT", "from ai_edge_litert.interpreter import Interpreter", "int32"),
        'Interpreter(f"{folder}/model.tflite").get_signature_runner("serving_default")',
        f"model(**{_MASKED}).values()",
    ),
}

# Both compute in what the folder holds. {options}: which runtime, and how it loads the folder.
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

folder = "."  # where this file is
model = SentenceTransformer(folder{options})  # pools by modules.json
queries = model.encode(["首都是哪里？"]{prompt})
passages = model.encode(["北京是中国的首都。", "这个酒店服务很好！"])
print(queries.shape, model.similarity(queries, passages))
"""

_CROSS_ENCODER = """\
from sentence_transformers import CrossEncoder

folder = "."  # where this file is
model = CrossEncoder(folder{options})
print(model.predict([("首都是哪里？", "北京是中国的首都。"), ("首都是哪里？", "这个酒店服务很好！")]))
"""

_BACKENDS = {
    "pytorch": "",
    "onnx": ', backend="onnx", model_kwargs={"file_name": "model.onnx"}',
    "openvino": ', backend="openvino", model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}',
}

# What pip installs for each.
_NEEDS = {
    "transformers": "transformers torch",
    "safetensors": "safetensors torch",
    "TensorFlow": "tensorflow tokenizers",
    "Flax": "flax",
    "ONNX Runtime": "onnxruntime tokenizers",
    "ONNX Runtime, step by step": "onnxruntime tokenizers",
    "LiteRT": "ai-edge-litert tokenizers",
    "optimum": "optimum-onnx[onnxruntime]",
    "OpenVINO": "openvino tokenizers",
    "optimum-intel": "optimum-intel[openvino]",
    "sentence-transformers": "sentence-transformers",
    "sentence-transformers on ONNX Runtime": "sentence-transformers[onnx]",
    "sentence-transformers on OpenVINO": "sentence-transformers[openvino]",
}
_SENTENCE_TOOLS = {
    "pytorch": "sentence-transformers",
    "onnx": "sentence-transformers on ONNX Runtime",
    "openvino": "sentence-transformers on OpenVINO",
}


# RoFormer's words are cut by jieba, which no tokenizer.json can hold: read by itself, it gives other ids.
_JIEBA_CLASSES = ("RoFormerTokenizer", "RoFormerTokenizerFast")
_ENCODED = re.compile(r'Tokenizer\.from_file\(f"\{folder\}/tokenizer\.json"\)\.encode\((.*)\)$', re.MULTILINE)


def needs_jieba(folder: Path) -> bool:
    """Whether the artifact's tokenizer needs jieba, which `tokenizer.json` cannot hold."""
    config = folder / "tokenizer_config.json"
    return config.exists() and read_json_object(config).get("tokenizer_class") in _JIEBA_CLASSES


def write_snippets(
    target: str,
    description: Mapping[str, Any],
    jieba: bool = False,
    prompt: str | None = None,
    model_type: str | None = None,
) -> list[tuple[str, str, str]]:
    """(tool, pip requirements, Python code) for each tool that loads this target's folder.

    description: the artifact's. jieba: as `needs_jieba` says. prompt: the text before a query. model_type: the family.
    """
    options = ", use_cache=False" if model_type in DECODERS else ""
    task, pooling = description["task"], description.get("pooling")
    pools = pooling is not None and pooling["mode"] != "splade"
    # One label is how relevant a document is to a query, or one text to another: it reads pairs.
    ranks = task == "text-classification" and len(description["labels"]) == 1
    text = _QUESTION if task == "question-answering" or ranks else _TEXT
    head = _CLASSES.get(task)
    found = {}
    family = target.removesuffix("-int8")
    if image := description["inputs"].get("image_features"):
        known = {"pytorch": ("safetensors", _SAFETENSORS), "flax": ("Flax", _FLAX)}
        if family not in known:
            tool, imports, integers, model, call = _TOOLS_WITH_IMAGE[family]
            parts = {"imports": imports, "integers": integers, "model": model, "call": call}
            known[family] = tool, _WITH_IMAGE.format(text=text, size=image[-1], **parts)
        tool, code = known[family]
        return [(tool, _NEEDS[tool], code)]
    if family in _BACKENDS and (pools or ranks):
        code = _SENTENCES if pools else _CROSS_ENCODER
        given = f", prompt={printable(json.dumps(prompt, ensure_ascii=False))}" if prompt else ""
        found[_SENTENCE_TOOLS[family]] = code.format(options=_BACKENDS[family], prompt=given)
    if target == "pytorch" and task == "text-generation":
        found["transformers"] = _PYTORCH_GENERATION.format(text=text)
    elif target == "pytorch":
        found["transformers"] = _PYTORCH.format(
            loader=f"AutoModelFor{head}" if head else "AutoModel", options=options, text=text
        )
    elif target == "tensorflow":
        found["TensorFlow"] = _TENSORFLOW.format(text=text)
    elif target == "flax":
        found["Flax"] = _FLAX
    elif target in ("litert", "litert-int8"):
        found["LiteRT"] = _LITERT.format(text=text)
    elif target.startswith("openvino"):
        found["OpenVINO"] = _OPENVINO.format(text=text)
        if task != "replaced-token-detection":  # optimum-intel has no class for it
            loader = f"OVModelFor{head or 'FeatureExtraction'}"
            found["optimum-intel"] = _OPTIMUM_INTEL.format(loader=loader, options=options if head else "", text=text)
    else:
        found["ONNX Runtime"] = _ONNX.format(text=text)
        if cache := description.get("step"):
            nothing = f"np.zeros((1, {cache['heads']}, 0, {cache['head_size']}), np.float32)"
            found["ONNX Runtime, step by step"] = _ONNX_STEP.format(text=text, nothing=nothing)
        # optimum has no class for the one, and gives the other no token_type_ids.
        elif task not in ("replaced-token-detection", "text-generation"):
            loader = f"ORTModelFor{head or 'FeatureExtraction'}"
            found["optimum"] = _OPTIMUM.format(loader=loader, text=text)
    return [(tool, *cut_by_jieba(_NEEDS[tool], code, jieba)) for tool, code in found.items()]


def cut_by_jieba(needs: str, code: str, jieba: bool) -> tuple[str, str]:
    """What pip installs, and Python that encodes a text: by transformers where `jieba`, and as it is where not."""
    if not jieba or not ("okenizer" in code or "sentence_transformers" in code):
        return needs, code
    code = code.replace("from tokenizers import Tokenizer\n", "from transformers import AutoTokenizer\n")
    code = _ENCODED.sub(r"AutoTokenizer.from_pretrained(folder)(\1).encodings[0]", code)
    return f"{needs.replace('tokenizers', 'transformers')} rjieba", code
