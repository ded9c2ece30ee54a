"""Amazon Reviews of 2018 (Ni et al. 2019) and 2023 (Hou et al. 2024): JSON lines of reviews, and of products."""

from __future__ import annotations

from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_author, as_genres, as_id, as_title, is_blank
from service.data.importers.rejections import Row, cell
from service.data.importers.taking import Manner, Taking, renamed
from service.records import Item

LIKED_ABOVE = 3.0

# In 2023 a product's variants have ids of their own, and share the parent's metadata.
_REVIEW = {
    "user_id": ("user_id", "reviewerID"),
    "item_id": ("parent_asin", "asin"),
    "rating": ("rating", "overall"),
    "timestamp": ("timestamp", "unixReviewTime", "reviewTime"),
}
_PRODUCT = {"item_id": ("parent_asin", "asin"), "author": ("store", "brand"), "genres": ("categories", "category")}


def amazon(reviews: Path, metadata: Path | None, item_type: str, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """Reviews, and the products' metadata if there are any; the year of release is told by the columns.

    Liked means more than 3 stars. Raises ImportRefused as `movielens` does.
    """
    taking = Taking.on(terms)
    products = None if metadata is None else taking.items(renamed(taking.rows(metadata), _PRODUCT), _product)
    interactions = taking.interactions(renamed(taking.rows(reviews), _REVIEW), Manner(LIKED_ABOVE), products)
    return taking.dataset(products or [], interactions, item_type)


def _product(row: Row) -> Item:
    maker = row.get("author")
    # Books of 2023 state their author as an object beside the store.
    author = None if is_blank(maker) or not isinstance(maker, str) else cell(row, "author", as_author)
    return Item(cell(row, "item_id", as_id), cell(row, "title", as_title), None, cell(row, "genres", as_genres), author)
