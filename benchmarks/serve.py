"""`yizhi serve` under load, beside what people would write or install instead: ratios of one run.

    python -m benchmarks.serve                       on a synthetic model of RBT3's shape, in int8
    python -m benchmarks.serve --artifact DIR        on an ONNX artifact
    python -m benchmarks.serve --soak 200000         also: does memory grow? on a model of one layer
    python -m benchmarks.serve --requests 40         a look

Every server embeds the same texts, one in a request, with mean pooling, and the same number of threads:

    yizhi                    `yizhi serve`, with its log of requests
    plain handler            Starlette around the same session's `run`, one request at a time
    sentence-transformers    Starlette around version 5's `encode`, in threads, on the artifact's ONNX file
    infinity                 infinity-emb on that file, where --infinity names a venv that has it

Lengths are log-normal, as in `benchmarks.bulk`. The clients are a process of their own (`benchmarks.load`): how long a
request keeps a processor is printed of both sides. The lone request is compared with the session
without a server, and saturation with `yizhi embed`'s batches of the same texts.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bulk import make_sentences
from benchmarks.processes import ROOT, Contestant, Failed
from benchmarks.servers import Served, bare_session, start
from benchmarks.workbench import PEERS, VENVS, Workbench
from yizhi.commands.options import positive

SERVERS = ("yizhi", "plain handler", "sentence-transformers", "infinity")
CLIENTS = (1, 8, 64, 256)
SHARE = 0.8  # of the saturated rate, at which the 99th percentile is measured


class Bench:
    """One run: the clients, the texts, and what was measured."""

    def __init__(self, options: argparse.Namespace, folder: Path, artifact: Path) -> None:
        from yizhi.runtimes import Tokenizer

        self.options, self.folder, self.artifact = options, folder, artifact
        tokenizer = Tokenizer.open(artifact)
        longest = tokenizer.max_length - 2
        self.texts = [text[:longest] for text in make_sentences(options.texts, tokenizer.vocab)]
        self.tokens = float(np.mean([len(row.ids) for row in tokenizer.tokenize(self.texts)]))
        self._clients = Contestant((sys.executable, "-m", "benchmarks.load"), folder / "log-load.txt", options.threads)

    def load(self, served: Served, do: str, **settings: Any) -> dict[str, Any]:
        """What the clients measured, with the server's processor seconds."""
        bodies = self.folder / "bodies.json"
        bodies.write_text(json.dumps([served.body(text) for text in self.texts], ensure_ascii=False))
        used = served.cpu()
        found = self._clients.ask(do=do, port=served.port, path=served.path, bodies=str(bodies), **settings)
        return {**found, "server_cpu": served.cpu() - used, "rate": found["answered"] / found["seconds"]}

    def start(self, name: str) -> AbstractContextManager[Served]:
        """A server, for a block."""
        venvs = {"sentence-transformers": self.options.peers / "python"}
        if self.options.infinity:
            venvs["infinity"] = self.options.infinity / "python"
        return start(name, self.artifact, self.options.threads, venvs, self.folder / f"log-{name.split()[0]}.txt")

    def close(self) -> None:
        self._clients.close()

    def measure_server(self, name: str) -> dict[str, Any]:
        """Rates and latencies with each number of clients, and at 80 % of the highest rate."""
        requests = self.options.requests
        with self.start(name) as served:
            served.wait(self.texts[0])
            self.load(served, "keep_asking", clients=8, requests=min(200, requests))
            found: dict[str, Any] = {}
            for clients in CLIENTS:
                found[str(clients)] = self.load(
                    served,
                    "keep_asking",
                    clients=clients,
                    requests=max(clients, requests // (2 if clients == 1 else 1)),
                )
                self.say(name, f"{clients} clients", found[str(clients)])
            rate = SHARE * max(one["rate"] for one in found.values())
            found["arriving"] = self.load(served, "arrive", rate=rate, requests=requests)
            self.say(name, f"{rate:.0f} a second", found["arriving"])
        return found

    def say(self, name: str, what: str, found: Mapping[str, Any]) -> None:
        """One line."""
        answered = max(found["answered"], 1)
        print(
            f"{name:22} {what:16} {found['rate']:8.1f} /s  p50 {found['p50'] * 1e3:8.1f}  p90 {found['p90'] * 1e3:8.1f}"
            f"  p99 {found['p99'] * 1e3:8.1f} ms   processor ms a request: {found['server_cpu'] / answered * 1e3:6.2f}"
            f" of the server, {found['cpu'] / answered * 1e3:5.2f} of the clients; failed: {found['failed']}",
            flush=True,
        )

    def measure_lone(self) -> float:
        """Seconds of tokenizing and `run`, by median, for the texts of the lone client."""
        run = bare_session(self.artifact, self.options.threads)
        seconds = []
        for text in self.texts[: max(1, self.options.requests // 2)]:
            began = time.perf_counter()
            run(text)
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    def measure_bulk(self) -> tuple[float, float]:
        """Texts a second, and a processor second, of what `yizhi embed` computes with."""
        from yizhi.runtimes import Embedder, open_runtime

        with open_runtime(self.artifact, threads=self.options.threads) as runtime:
            embed = Embedder(runtime)
            embed(self.texts[:8])
            began, used = time.perf_counter(), time.process_time()
            embed(self.texts)
            count = len(self.texts)
            return count / (time.perf_counter() - began), count / (time.process_time() - used)

    def soak(self, requests: int) -> None:
        """Memory of our server after a tenth of the requests, and after all."""
        with self.start("yizhi") as served:
            served.wait(self.texts[0])
            sizes = []
            for count in (requests // 10, requests - requests // 10):
                found = self.load(served, "keep_asking", clients=32, requests=count)
                sizes.append(served.resident())
                self.say("yizhi", f"{count:,} requests", found)
        growth = sizes[1] / sizes[0] - 1
        print(f"memory: {sizes[0] / 1e6:.1f} MB, then {sizes[1] / 1e6:.1f}: {growth:+.1%}")


def judge(found: Mapping[str, Any], lone: float, bulk: tuple[float, float]) -> None:
    """Print our ratios beside what is aimed at."""
    best = max((found[str(clients)] for clients in CLIENTS), key=lambda one: one["rate"])
    per_cpu = best["answered"] / best["server_cpu"]
    arriving = found["arriving"]
    print(f"the session alone: {lone * 1e3:.2f} ms, by median")
    print(f"batches of `yizhi embed`: {bulk[0]:.1f} texts a second, {bulk[1]:.1f} a processor second")
    print(f"by processor seconds, saturation has {per_cpu / bulk[1]:.2f} of the rate of batches")
    print(f"p99 / p50 of lone requests: {found['1']['p99'] / found['1']['p50']:.2f}: lengths differ as much")
    for told, ratio, aim, more in (
        ("saturated rate / that of batches", best["rate"] / bulk[0], 0.9, True),
        ("a lone request / the session, by p50", found["1"]["p50"] / lone, 1.15, False),
        ("p99 / p50 at 80 % load", arriving["p99"] / arriving["p50"], 4.0, False),
    ):
        met = ratio >= aim if more else ratio <= aim
        print(f"{told}: {ratio:.2f} ({'at least' if more else 'at most'} {aim}: {'met' if met else 'not met'})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="default: onnx-int8 of a random checkpoint of RBT3's shape")
    parser.add_argument("--requests", type=positive, default=2000, help="with each number of clients (default: 2000)")
    parser.add_argument("--texts", type=positive, default=1000, help="that requests repeat (default: 1000)")
    parser.add_argument("--threads", type=positive, default=max(1, (os.cpu_count() or 1) - 1), help="of each server")
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=SERVERS, metavar="SERVER")
    parser.add_argument("--soak", type=positive, metavar="REQUESTS", help="measure memory, and nothing else")
    parser.add_argument("--peers", type=Path, default=VENVS[PEERS], help="bin of a venv with sentence-transformers 5")
    parser.add_argument("--infinity", type=Path, help="bin of a venv with infinity-emb 0.0.78, which needs numpy < 2")
    options = parser.parse_args()
    folder = ROOT / "build" / "bench"
    workbench = Workbench(folder, folder / "serve.json", options.threads, quick=True)  # of 3 layers
    artifact = make_small(workbench) if options.soak else options.artifact or workbench.ours("onnx-int8")
    logs = folder / ("soak" if options.soak else "serve")
    logs.mkdir(exist_ok=True)
    bench = Bench(options, logs, artifact)
    print(f"{artifact}: {len(bench.texts)} texts of {bench.tokens:.1f} tokens on average, {options.threads} threads")
    try:
        if options.soak:
            bench.soak(options.soak)
            return
        found: dict[str, Any] = {}
        for name in options.only:
            try:
                found[name] = bench.measure_server(name)
            except Failed as error:
                print(f"{name:22} not run: {error}")
        if "yizhi" in found:
            judge(found["yizhi"], bench.measure_lone(), bench.measure_bulk())
    finally:
        bench.close()


def make_small(workbench: Workbench) -> Path:
    """An int8 artifact of one narrow layer, on which a request costs little beside the server."""
    out = workbench.folder / "ours-small"
    if not out.exists():
        workbench.make(workbench.convert("yizhi-onnx-int8", workbench.checkpoint(1, 64), out))
    return out


if __name__ == "__main__":
    main()
