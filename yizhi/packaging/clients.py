"""README.md of a package: how to serve it, and ten lines of Python that ask the server."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yizhi.release.snippets import cut_by_jieba, needs_jieba

README = "README.md"

_TRITON = """\
import numpy as np
import tritonclient.http as triton
from tokenizers import Tokenizer

folder = "tokenizer"  # beside this file
encoding = Tokenizer.from_file(f"{folder}/tokenizer.json").encode("北京是中国的首都。")
given = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
tensors = [triton.InferInput(name, [1, len(ids)], "INT64") for name, ids in given.items()]
tensors = [tensor.set_data_from_numpy(np.array([given[tensor.name()]])) for tensor in tensors]
answer = triton.InferenceServerClient("localhost:8000").infer("MODEL", tensors).get_response()
print({output["name"]: output["shape"] for output in answer["outputs"]})
"""

# The columnar format of https://www.tensorflow.org/tfx/serving/api_rest: one output alone stands without its name.
_TF_SERVING = """\
import json
from urllib.request import Request, urlopen
from tokenizers import Tokenizer

folder = "tokenizer"  # beside this file
encoding = Tokenizer.from_file(f"{folder}/tokenizer.json").encode("北京是中国的首都。")
given = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
body = json.dumps({"inputs": {name: [ids] for name, ids in given.items()}}).encode()
with urlopen(Request("http://localhost:8501/v1/models/MODEL:predict", body)) as response:
    print(response.read(300))
"""

_CLIENTS = {
    "triton": ("Triton", "tritonclient[http] tokenizers", _TRITON),
    "tf-serving": ("TensorFlow Serving", "tokenizers", _TF_SERVING),
}


def write_readme(folder: Path, server: str, start: str, models: Sequence[Mapping[str, Any]], tokenizer: Path) -> None:
    """Write it, for servers with a Python client.

    start: the server's command. tokenizer: the folder of the tokenizer's files.
    """
    if server not in _CLIENTS:
        return
    title, needs, code = _CLIENTS[server]
    name = models[0]["name"]
    needs, code = cut_by_jieba(needs, code.replace("MODEL", name), needs_jieba(tokenizer))
    lines = [
        f"# {name} in {title}",
        "",
        "Start the server, in the folder of this file:",
        "",
        "```",
        start.format(package=".", name=name),
        "```",
        "",
        f"Ask it, in the same folder (`pip install {shlex.join(needs.split())}`):",
        "",
        "```python",
        *code.splitlines(),
        "```",
        "",
        f"The models: {', '.join(model['name'] for model in models)}. `package.json` lists every file with its sha256.",
        "",
    ]
    (folder / README).write_text("\n".join(lines), encoding="utf-8")
