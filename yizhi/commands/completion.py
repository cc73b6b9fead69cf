"""`yizhi completion`."""

import argparse

from yizhi.commands.options import Commands, add_command
from yizhi.errors import NotRun

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "completion",
        run,
        "print a script that completes commands and options in your shell",
        "Print the script; your shell reads it when it starts. Needs the extra `completion`.\n\n"
        "  yizhi completion bash > ~/.local/share/bash-completion/completions/yizhi\n"
        "  yizhi completion zsh > ~/.zfunc/_yizhi",
    )
    parser.add_argument("shell", choices=SHELLS)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    try:
        import shtab
    except ImportError:
        raise NotRun("completion", "needs shtab: pip install 'yizhi[completion]'") from None
    print(shtab.complete(options.root, options.shell))
    return 0
