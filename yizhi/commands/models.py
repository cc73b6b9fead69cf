"""`yizhi models`."""

import argparse
import json

from yizhi.commands.options import JSON_HELP, Commands, add_command, make_console


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "models",
        run,
        "list known Chinese checkpoints",
        "List known Chinese checkpoints, or print all about one: shape, size, licence, published hashes, whether\n"
        "its masked-language-model head is worth using, when to choose it, and the source of each fact.\n\n"
        "  yizhi models\n"
        "  yizhi models ernie\n"
        "  yizhi models hfl/rbt3 --json",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a name from the list, a hub id, or a part of names")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.catalogue.catalogue import find_containing, find_known, read_catalogue
    from yizhi.reports.known import print_model, print_models

    containing = find_containing(options.name) if options.name else []
    is_name = any(options.name in (entry.name, *entry.hub) for entry in containing)
    if options.name and (is_name or not containing):
        chosen = find_known(options.name)
        if options.json:
            print(json.dumps(chosen.as_dict(), ensure_ascii=False, indent=2))
        else:
            print_model(make_console(), chosen)
        return 0
    known = containing or read_catalogue().values()
    if options.json:
        print(json.dumps([entry.as_dict() for entry in known], ensure_ascii=False, indent=2))
    else:
        print_models(make_console(), known)
    return 0
