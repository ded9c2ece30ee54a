"""What a list of texts asks for, and what counts as a text's trace."""

from __future__ import annotations

import pytest

from service.data.traces import SoughtText, is_delimited, is_distinctive, texts_to_look_for
from service.errors import InvalidInput


def forms(content: str) -> list[tuple[str, ...]]:
    return [sought.forms for sought in texts_to_look_for(content)]


@pytest.mark.parametrize(
    "content",
    [
        "kanarek\n",
        "\ufeffkanarek\n",
        "kanarek",
        "  kanarek\t\n",
        "\n\nkanarek\r\n\r\n",
        "\u00a0kanarek\u2003",
        '"kanarek"',
    ],
)
def test_what_lies_around_a_text_is_no_part_of_it(content: str) -> None:
    [found] = forms(content)
    assert "kanarek" in found


def test_lines_are_numbered_as_an_editor_numbers_them_and_separators_inside_an_id_do_not_end_it() -> None:
    assert [sought.line for sought in texts_to_look_for("one\n\n  \nfour\r\nfive")] == [1, 4, 5]
    for inside in ("a\u0085b", "a\u2028b", "a\x0bb", "a\tb", "a\x1cb"):
        assert forms(f"{inside}\n") == [(inside,)]


def test_equivalent_spellings_are_all_looked_for_and_first_the_one_that_is_stored() -> None:
    assert forms("Zoe\u0308") == [("Zo\u00eb", "Zoe\u0308")]
    assert forms("Zo\u00eb") == [("Zo\u00eb", "Zoe\u0308")]
    assert forms('"with\\nline feed"')[0][-1] == "with\nline feed"


@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "\ufeff\n", "  \n\t\r\n", "\u00a0\n\u2003"])
def test_a_list_without_a_text_is_refused(content: str) -> None:
    with pytest.raises(InvalidInput, match="no text to look for"):
        texts_to_look_for(content)


@pytest.mark.parametrize(
    ("text", "is_evidence"),
    [
        ("5", False),
        ("bob", False),
        ("12345", False),
        ("1234567", False),
        ("person", True),
        ("鳥🐦", True),
        ("1" * 12, True),
    ],
)
def test_short_texts_and_short_numbers_are_no_evidence(text: str, is_evidence: bool) -> None:
    assert is_distinctive(text) == is_evidence
    assert SoughtText(1, (text,)).is_distinctive == is_evidence


@pytest.mark.parametrize(
    "content",
    [
        "ann",
        '"ann"',
        "x,ann,y",
        "user ann.",
        "/ann/",
        "ann\n",
        "[ann]",
        "id=ann&x",
        "ann: 5",
        "who is ann?",
        "anna ann",
    ],
)
def test_a_value_between_delimiters_is_found(content: str) -> None:
    assert is_delimited(content, "ann")


@pytest.mark.parametrize(
    "content", ["anna", "joann", "ann-marie", "ann.smith@x", "x_ann", "annë", "5ann", "ann+1", "AnN"]
)
def test_a_part_of_a_longer_name_is_none(content: str) -> None:
    assert not is_delimited(content, "ann")
