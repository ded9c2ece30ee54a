"""Files of other people -> items and interactions: MovieLens, Book-Crossing, goodbooks-10k, Goodreads, Amazon, RecBole, tables
of any kind, and the demo.

Files may be plain or packed (`.xz`, `.gz`, `.bz2`, `.zst`). A row that cannot be taken becomes a Rejection, which tells
where and why, never what stood there; too many of them refuse the whole import. Importers know nothing of the ledger.
"""

from service.data.importers.amazon import amazon
from service.data.importers.atomic import recbole
from service.data.importers.book_crossing import bookcrossing
from service.data.importers.bundled import demo
from service.data.importers.dataset import Dataset, Limit, Rejection, Terms
from service.data.importers.goodbooks import goodbooks
from service.data.importers.goodreads import goodreads
from service.data.importers.movie_lens import movielens
from service.data.importers.tables import table

__all__ = [
    "Dataset",
    "Limit",
    "Rejection",
    "Terms",
    "amazon",
    "bookcrossing",
    "demo",
    "goodbooks",
    "goodreads",
    "movielens",
    "recbole",
    "table",
]
