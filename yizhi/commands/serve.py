"""`yizhi serve`."""

import argparse
import sys

from yizhi.choices import DEVICES
from yizhi.commands.options import DEVICE_HELP, Commands, add_command, named, positive
from yizhi.commands.signer_options import add_checker, open_checker
from yizhi.errors import InputError

_KEY = "YIZHI_API_KEY"


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "serve",
        run,
        "answer over HTTP, as OpenAI, text-embeddings-inference, Cohere, Jina and KServe do",
        "Serve artifacts over HTTP until the process is stopped. First, check the hash of every file and the golden\n"
        "answers. A model has the name of its release, or NAME with NAME=PATH.\n\n"
        "  yizhi serve dist/bert-base-chinese\n"
        "  yizhi serve dist/ner/onnx-int8 reviews=dist/sentiment/onnx-int8 --port 9000\n"
        f"  {_KEY}=… yizhi serve dist/bert-base-chinese --host 0.0.0.0 --public-key key.pem",
    )
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]PATH", help="an artifact, or a release, whose onnx-int8 is served"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on; 0: a free one (default: 8080)")
    parser.add_argument(
        "--api-key-file", type=named, metavar="FILE", help=f"the key that clients must give (default: ${_KEY}, if set)"
    )
    add_checker(parser)
    parser.add_argument(
        "--prompt",
        dest="prompts",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="put TEXT before a text, if the request's prompt_name is NAME (the artifact's own prompts have names too)",
    )
    parser.add_argument("--json-logs", action="store_true", help="log in JSON")
    compute = parser.add_argument_group("computing")
    compute.add_argument("--device", choices=DEVICES, default="cpu", help=DEVICE_HELP)
    compute.add_argument("--threads", type=positive, help="CPU threads of a batch (default: the framework's choice)")
    compute.add_argument("--workers", type=positive, default=1, help="batches of a model at once (default: 1)")
    compute.add_argument("--batch-tokens", type=positive, default=512, help="tokens in a batch (default: 512)")
    cluster = parser.add_argument_group("on many machines")
    cluster.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: replicas of Ray Serve")
    cluster.add_argument(
        "--address", help="the cluster: auto or HOST:PORT (default: $RAY_ADDRESS, else one on this machine)"
    )
    cluster.add_argument("--min-replicas", type=positive, help="fewest processes with the models (default: 1)")
    cluster.add_argument(
        "--max-replicas", type=positive, help="most processes with the models, under load (default: 4)"
    )
    cluster.add_argument(
        "--target-ongoing-requests",
        type=positive,
        metavar="N",
        help="requests of a replica, before another replica starts (default: 16)",
    )
    limits = parser.add_argument_group("limits (a request beyond one is rejected)")
    limits.add_argument("--max-bytes", type=positive, metavar="N", help="bytes of a body (default: 8 MiB)")
    limits.add_argument("--max-texts", type=positive, metavar="N", help="texts of a request (default: 1024)")
    limits.add_argument("--max-tokens", type=positive, metavar="N", help="tokens of a request (default: 131,072)")
    limits.add_argument("--max-requests", type=positive, metavar="N", help="requests at once (default: 256)")
    limits.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="time for an answer (default: 60)")


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.serving.limits import Limits
    from yizhi.serving.server import Settings, find_artifacts, is_loopback, read_key, serve

    given = {
        "body_bytes": options.max_bytes,
        "texts": options.max_texts,
        "tokens": options.max_tokens,
        "requests": options.max_requests,
        "seconds": options.timeout,
    }
    settings = Settings(
        host=options.host,
        port=options.port,
        device=options.device,
        threads=options.threads,
        workers=options.workers,
        batch_tokens=options.batch_tokens,
        limits=Limits(**{name: value for name, value in given.items() if value is not None}),
        prompts=_read_prompts(options.prompts),
        checker=open_checker(options),
        json_logs=options.json_logs,
    )
    replicas = _read_replicas(options)
    key = read_key(options.api_key_file)
    artifacts = find_artifacts(options.models)
    if key is None and not is_loopback(options.host):
        print(f"yizhi: {options.host}: other machines reach this address, and no key is required", file=sys.stderr)
    if options.engine == "local":
        serve(artifacts, settings, key)
    else:
        from yizhi.serving.ray_engine import Replicas, serve_on_ray

        serve_on_ray(artifacts, settings, Replicas(**replicas), options.address, key)
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected 0 … 65535; found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)  # argparse tells of what is no number
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number; found {text!r}")
    return seconds


def _read_replicas(options: argparse.Namespace) -> dict[str, int]:
    """The options of replicas that were given. Raises InputError if the engine is local."""
    names = ("min_replicas", "max_replicas", "target_ongoing_requests")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    wrong = [f"`{name}`" for name in (*given, *(["address"] if options.address is not None else []))]
    if options.engine == "local" and wrong:
        raise InputError(", ".join(wrong), f"{'is' if len(wrong) == 1 else 'are'} for --engine ray")
    return given


def _read_prompts(given: list[str]) -> dict[str, str]:
    wrong = [f"expected NAME=TEXT; found {text!r}" for text in given if "=" not in text]
    if wrong:
        raise InputError("--prompt", wrong)
    return dict(text.split("=", 1) for text in given)
