"""Files of other people -> items and interactions: MovieLens, Book-Crossing, goodbooks-10k, tables, and the demo.

Files may be plain, `.xz` or `.gz`. A row that cannot be taken becomes a Rejection, which tells where and why, never what
stood there; too many of them refuse the whole import. Importers know nothing of the ledger. One reads no interactions:
TALLRec released finished book prompts only, which are read back into samples.
"""

from service.data.importers.book_crossing import bookcrossing
from service.data.importers.bundled import demo
from service.data.importers.dataset import Dataset, Rejection
from service.data.importers.goodbooks import goodbooks
from service.data.importers.movie_lens import movielens
from service.data.importers.tables import table
from service.data.importers.tallrec_books import tallrec_books

__all__ = ["Dataset", "Rejection", "bookcrossing", "demo", "goodbooks", "movielens", "table", "tallrec_books"]
