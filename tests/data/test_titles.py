from __future__ import annotations

import pytest

from service.data.titles import plain_title, year_in


@pytest.mark.parametrize(
    ("stated", "plain"),
    [
        ("Matrix, The (1999)", "matrix"),
        ("the MATRIX", "matrix"),
        ("Misérables, Les (1998)", "les miserables"),
        ("Les Miserables", "les miserables"),
        ("Spirited Away (Sen to Chihiro no kamikakushi) (2001)", "spirited away"),
        ("WALL·E (2008)", "wall e"),
        ("Wall-E", "wall e"),
        ("A Bug's Life", "bug s life"),
        ("Bug's Life, A (1998)", "bug s life"),
        ("Tom & Jerry", "tom and jerry"),
        ("Die Hard", "die hard"),
        ("(500) Days of Summer (2009)", "500 days of summer"),
        ("The", "the"),
        ("(2012)", "2012"),
        ("千と千尋の神隠し", "千と千尋の神隠し"),
        ("...", ""),
    ],
)
def test_titles_that_say_the_same_are_plainly_the_same(stated: str, plain: str) -> None:
    assert plain_title(stated) == plain == plain_title(plain)


@pytest.mark.parametrize(("title", "year"), [("Heat (1995)", 1995), ("Heat", None), ("(1995) Heat", None)])
def test_a_year_stands_at_the_end(title: str, year: int | None) -> None:
    assert year_in(title) == year
