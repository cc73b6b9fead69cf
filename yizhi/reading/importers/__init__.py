"""Foreign formats in, a canonical checkpoint out. docs/importing.md lists the formats, and how exact each import is."""

from yizhi.reading.importers.importer import import_checkpoint
from yizhi.reading.importers.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint"]
