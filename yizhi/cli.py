"""The command line: finds the command, and turns errors into exit codes."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar, NoReturn

from yizhi import __version__
from yizhi.commands import (
    answer,
    classify,
    completion,
    convert,
    diff,
    doctor,
    embed,
    export,
    fill_mask,
    finetune,
    import_checkpoint,
    inspect,
    int8_report,
    models,
    package,
    pretrain,
    pull,
    push,
    rerank,
    revoke,
    serve,
    sign,
    synthesize,
    tag,
    train_embeddings,
    trim_vocab,
    verify,
)
from yizhi.commands.options import name_flags
from yizhi.errors import Altered, CheckFailed, InputError, printable, propose

# As the help groups them: what a user wants to do.
GROUPS: Mapping[str, Sequence[ModuleType]] = {
    "make": (export, convert, import_checkpoint, trim_vocab, synthesize),
    "check": (verify, diff, inspect, int8_report, models),
    "use": (fill_mask, classify, tag, answer, embed, rerank, serve),
    "train": (pretrain, finetune, train_embeddings),
    "ship": (package, sign, revoke, push, pull),
    "set up": (doctor, completion),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0: good; 1: a check failed; 2: bad usage or input; 3: something was not run."""
    parser = build_parser()
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser.print_help()
        return 0
    strange = [printable(argument) for argument in given if not _is_utf8(argument)]
    if strange:
        parser.error(f"expected arguments in UTF-8; found {', '.join(strange)}")
    options = parser.parse_command(given)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"yizhi: {name_flags(str(error), options.parser)}", file=sys.stderr)
        return 1 if isinstance(error, Altered) else 2
    except CheckFailed as error:
        print(f"yizhi: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads has enough, as `head` does; what is left is not for Python to flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        print(f"yizhi: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("yizhi: interrupted", file=sys.stderr)
        return 130


BROKEN_PIPE = 141  # as a shell tells of it


def _is_utf8(argument: str) -> bool:
    """False for a name that only this machine's file system knows. No manifest and no framework takes such a name."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Parser(argparse.ArgumentParser):
    """Groups the commands in its help, and proposes what was meant where one, or an option, is misspelled."""

    groups: Mapping[str, Sequence[argparse.Action]] = {}
    # Of the whole command line: a command's own parser, which is of this class too, is told of its part alone.
    given: ClassVar[Sequence[str]] = ()

    def format_help(self) -> str:
        """As ArgumentParser's; argparse itself has no groups of commands."""
        if not self.groups:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in {**self.groups, "options": self._optionals._group_actions}.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def parse_command(self, given: Sequence[str]) -> argparse.Namespace:
        """As `parse_args`, but an unknown option is the command's own error."""
        _Parser.given = given
        options, unknown = self.parse_known_args(given)
        if unknown:
            command: argparse.ArgumentParser = getattr(options, "parser", self)
            known = [name for action in command._actions for name in action.option_strings]
            command.error(f"unrecognized arguments: {' '.join(unknown)}{propose(unknown[0].partition('=')[0], known)}")
        return options

    def error(self, message: str) -> NoReturn:
        """As ArgumentParser's, but an unknown option is told of before what is missing: it may have been meant so."""
        known = [name for action in self._actions for name in action.option_strings]
        names = [name.partition("=")[0] for name in self.given if name.startswith("--")]
        strange = [name for name in names if not any(option.startswith(name) for option in known)]
        if strange and message.startswith("the following arguments are required"):
            message = f"unrecognized arguments: {' '.join(strange)}{propose(strange[0], known)}"
        found = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found:
            message = f"no such command: {found[1]}{propose(found[1], re.findall(r'[a-z0-9-]+', found[2]))}"
        super().error(message)


def build_parser() -> _Parser:
    """Every command with its help."""
    parser = _Parser(
        prog="yizhi",
        description="One checkpoint, every runtime, proven identical.",
        epilog="Exit codes: 0 good; 1 a check failed; 2 bad usage or bad input; 3 nothing failed, but something was "
        "not run or not judged. `yizhi COMMAND --help` explains a command with examples.",
    )
    parser.add_argument("--version", action="version", version=f"yizhi {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    groups = {}
    for title, members in GROUPS.items():
        before = len(commands._choices_actions)
        for command in members:
            command.add(commands)
        groups[title] = commands._choices_actions[before:]
    parser.groups = groups
    parser.set_defaults(root=parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
