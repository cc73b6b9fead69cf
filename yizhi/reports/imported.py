"""`yizhi import`: what an import did, for people."""

from collections.abc import Mapping

from rich.console import Console

from yizhi.errors import printable
from yizhi.reading.importers import ImportReport


def print_report(console: Console, report: ImportReport) -> None:
    """Print the report as lines: counts, tensors that were left out and why, notes, and digests."""

    def say(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    counts = report.counts()
    say(f"{report.source} -> {report.out}")
    say(f"{report.format}: {report.model_type}, {report.task}")
    say(f"{counts.pop('read')} tensors read, {counts.pop('ignored')} ignored, {counts.pop('written')} written")
    say(f"of these {', '.join(f'{count} {word}' for word, count in counts.items() if count) or 'all as they were'}")
    for reason, names in _by_value(report.ignored).items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"  ignored {', '.join(names[:3])}{more}: {reason}")
    for name, reason in report.unread.items():
        say(f"  not read {name}: {reason}")
    for note in report.notes:
        say(f"  note {note}")
    for name, digest in report.sha256.items():
        say(f"  sha256 {digest}  {name}")


def _by_value(items: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, reason in items.items():
        groups.setdefault(reason, []).append(name)
    return groups
