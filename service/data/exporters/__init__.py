"""Rows of the house -> files of other people: Parquet, CSV, or lines of JSON. Exporters know nothing of the ledger."""

from service.data.exporters.export_file import ExportFile

__all__ = ["ExportFile"]
