"""The code blocks of a page, run as a reader runs them: in the page's order, in one folder."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.imports import ROOT

RUN = ("sh", "console", "python")
# Said above a block, where no reader of the rendered page sees it.
MARK = re.compile(r"<!--\W*not (run|compared)")
NOT_RUN = re.compile(r"<!-- not run: (\w.*\w) -->$")
NOT_COMPARED = re.compile(r"<!-- not compared: (\w.*\w) -->$")
# The address of pages that serve; a test takes a free port in its place.
ADDRESS = "127.0.0.1:8080"
SECONDS = 900

# Written out, a page's commands are these but for three things. `pip` changes nothing here. `export` writes the targets
# that pages go on with, for nine take a minute and have tests of their own. `serve` goes to the background, on a free
# port, until the next `serve` or the page's end.
_PREAMBLE = """
set -euo pipefail
trap 'jobs -p | xargs --no-run-if-empty kill; wait' EXIT
pip() { :; }
yizhi() {
  case $1 in
    export) [[ " $* " == *" --target "* ]] || set -- "$@" %(targets)s ;;
    serve) serve "$@"; return ;;
  esac
  python -m yizhi "$@"
}
serve() {
  [ -z "${server:-}" ] || { kill "$server"; wait "$server" || true; }
  python -m yizhi "$@" --port %(port)s > server.log 2>&1 &
  server=$!
  until grep --quiet 'yizhi: serving .* at http' server.log; do
    kill -0 "$server" || { cat server.log; return 1; }
    sleep 0.1
  done
  cat server.log
}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of the page that opens it, its language, and the reasons of its marks."""

    line: int
    language: str
    text: str
    not_run: str | None
    not_compared: str | None

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.not_run is None


def read_blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text.

    Raises ValueError where a block has no language, and where a mark has no reason or no block to run below it.
    """
    blocks, faults = [], []
    mark: Token | None = None
    for token in MarkdownIt().parse(page):
        line = token.map[0] + 1 if token.map else 0
        runs = token.type == "fence" and token.info in RUN
        if mark and not runs:
            faults.append(f"line {line}: expected a block of {', '.join(RUN)} below {mark.content.strip()}")
        if token.type == "code_block" or (token.type == "fence" and not token.info):
            faults.append(f"line {line}: a block without a language: expected sh, console, python, text or another")
        elif token.info == "console" and not token.content.startswith("$ "):
            faults.append(f"line {line}: expected a console block to begin with a command: $ …")
        elif token.type == "fence":
            reasons = [form.match(mark.content) if mark else None for form in (NOT_RUN, NOT_COMPARED)]
            blocks.append(Block(line, token.info, token.content, *(found and found[1] for found in reasons)))
        mark = token if token.type == "html_block" and MARK.match(token.content) else None
        if mark and not (NOT_RUN.match(mark.content) or NOT_COMPARED.match(mark.content)):
            faults.append(f"line {line}: expected <!-- not run: REASON --> or <!-- not compared: REASON -->")
    if faults:
        raise ValueError("\n".join(faults))
    return blocks


def read_page(name: str) -> list[Block]:
    """The blocks of one of this project's pages."""
    return read_blocks((ROOT / name).read_text(encoding="utf-8"))


def split_console(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a `console` block, each with the lines that it prints."""
    commands: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        else:
            commands[-1][1].append(line)
    return commands


def find_missing(expected: Sequence[str], printed: str) -> list[str]:
    """The lines that are not among those printed, in this order. Any number stands for any, and … for anything."""
    found = iter(map(_normalize, printed.splitlines()))
    return [line for line in expected if not any(_pattern(line).fullmatch(other) for other in found)]


def _normalize(line: str) -> str:
    return " ".join(re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "0", line).split())


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, _normalize(line).split("…"))))


def run_blocks(blocks: Sequence[Block], folder: Path, targets: Sequence[str] = ("onnx", "onnx-int8")) -> None:
    """Run them by one bash, in a folder that has what the page supposes.

    targets: what `export` writes where a page names none.
    Raises AssertionError for the first block that fails, with what it printed, and for output that is not the page's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = folder / "page.outputs"
    outputs.mkdir()
    wanted = " ".join(f"--target {target}" for target in targets)
    script = [_PREAMBLE % {"port": port, "targets": wanted}]
    for block in blocks:
        script += [f"echo {block.line} > page.outputs/at", *_commands(block, f"page.outputs/{block.line}")]
    (folder / "page.sh").write_text("\n".join(script).replace(ADDRESS, f"127.0.0.1:{port}"), encoding="utf-8")
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    # No page may need the hub: nothing listens there.
    own = {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "HF_ENDPOINT": "http://127.0.0.1:9"}
    # Also where these tests are killed, nothing runs on for ever.
    bash = subprocess.Popen(
        ["timeout", "--kill-after=5", str(SECONDS), "bash", "page.sh"],
        cwd=folder,
        env={**os.environ, **path, **own},
        start_new_session=True,
    )
    try:
        status = bash.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
    if status:
        at = (outputs / "at").read_text().strip()
        printed = "".join(
            path.read_text(errors="replace") for path in sorted([*outputs.glob(at), *outputs.glob(f"{at}.*")])
        )
        raise AssertionError(f"the block at line {at} ended with exit code {status}:\n{printed}")
    faults = []
    for block in blocks:
        for number, (command, lines) in enumerate(_compared(block)):
            printed = (outputs / f"{block.line}.{number}").read_text(encoding="utf-8")
            if missing := find_missing(lines, printed.replace(f":{port}", ":8080")):
                faults.append(f"line {block.line}: {command}\nlacks: {'; '.join(missing)}\nprinted:\n{printed}")
    assert not faults, "\n".join(faults)


def _compared(block: Block) -> list[tuple[str, list[str]]]:
    return split_console(block.text) if block.language == "console" and not block.not_compared else []


def _commands(block: Block, output: str) -> Iterator[str]:
    """Lines of bash. What a transcript prints is compared, so that its commands may fail, as printed."""
    if block.language == "python":
        yield f"python -c {shlex.quote(block.text)} > {output} 2>&1"
    elif block.language == "sh":
        yield f"{{\n{block.text}}} > {output} 2>&1"
    else:
        for number, (command, _) in enumerate(split_console(block.text)):
            yield f"{{\n{command}\n}} > {output}.{number} 2>&1" + ("" if block.not_compared else " || true")
