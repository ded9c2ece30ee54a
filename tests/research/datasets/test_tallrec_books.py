"""TALLRec's book prompts, read back into samples: the same words must come out again."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research.datasets.tallrec_books import tallrec_books
from service.data import prompts
from service.errors import ImportRefused
from service.records import Item, RatedItem, Sample

CANARY = "canary-55d1"
READ = {
    "instruction": prompts.instruction("book"),
    "input": 'User Preference: "Emma" written by Jane Austen, "It" written by King, Stephen\n'
    'User Unpreference: \nWhether the user will like the target book ""Dune" written by F. Herbert"?',
    "output": "Yes.",
}


def write(folder: Path, content: object, name: str = "valid.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def released_form(sample: Sample) -> dict[str, str]:
    words = prompts.history_text(sample.history) + prompts.target_text(sample.target, "book")
    answer = "Yes." if sample.liked else "No."
    return {"instruction": prompts.instruction("book"), "input": words, "output": answer}


def named(mentions: tuple[RatedItem, ...]) -> list[tuple[str, str | None, bool]]:
    return [(o.item.title, o.item.author, o.liked) for o in mentions]


def test_a_prompt_becomes_the_sample_of_one_user(tmp_path: Path) -> None:
    (sample,) = tallrec_books(write(tmp_path, [READ]), "valid")
    assert named(sample.history) == [("Emma", "Jane Austen", True), ("It", "King, Stephen", True)]
    assert (sample.user_id, sample.target.title, sample.target.author) == ("book-valid-00000", "Dune", "F. Herbert")
    assert sample.liked


def test_one_book_has_one_id_wherever_it_stands(tmp_path: Path) -> None:
    as_dislike = 'User Preference: \nUser Unpreference: "Dune" written by F. Herbert\n'
    other = as_dislike + 'Whether the user will like the target book ""Dune" written by B. Herbert"?'
    first, second = tallrec_books(write(tmp_path, [READ, READ | {"input": other}]), "valid")
    assert first.target == second.history[0].item
    assert first.target.item_id != second.target.item_id


# A quote behind a comma opens the next book; a prompt of ours holds none inside a title or a name.
text = st.text(st.sampled_from('ab ,"\\()'), min_size=1, max_size=12).filter(
    lambda words: words.strip() and ',"' not in words.replace(" ", "")
)
books = st.builds(lambda title, author: Item("", title, author=author), text, text)
histories = st.lists(st.builds(RatedItem, books, st.booleans()), max_size=6).map(tuple)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories, books, st.booleans())
def test_titles_may_hold_commas_and_quotes(
    tmp_path: Path, history: tuple[RatedItem, ...], target: Item, liked: bool
) -> None:
    written = released_form(Sample("", history, target, liked))
    (read,) = tallrec_books(write(tmp_path, [written]), "valid")
    assert released_form(read) == written
    assert sorted(named(read.history)) == sorted(named(history))


def test_a_title_may_say_by_whom_another_book_was_written(tmp_path: Path) -> None:
    title = 'On "Emma" written by Austen'
    written = released_form(Sample("", (), Item("", title, author="Critic"), False))
    (read,) = tallrec_books(write(tmp_path, [written]), "valid")
    assert (read.target.title, read.target.author) == (title, "Critic")


def broken(change: Callable[[str], str]) -> dict[str, str]:
    return READ | {"input": change(READ["input"])}


@pytest.mark.parametrize(
    "prompt",
    [
        CANARY,
        {},
        READ | {"output": f"Yes {CANARY}"},
        READ | {"input": 7},
        broken(lambda words: words.replace("target book", "target movie")),
        broken(lambda words: words.replace(" written by King, Stephen", CANARY)),
        broken(lambda words: words.replace(" written by F. Herbert", CANARY)),
        broken(lambda words: words.replace("Dune", " ")),
        broken(lambda words: words + CANARY),
    ],
    ids=range(9),
)
def test_another_wording_is_refused_by_its_place_alone(tmp_path: Path, prompt: Any) -> None:
    with pytest.raises(ImportRefused) as refused:
        tallrec_books(write(tmp_path, [READ, prompt]), "valid")
    assert "valid.json line 2" in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("content", [f'["{CANARY}', f'{{"a": "{CANARY}"}}', ""], ids=["cut", "no list", "empty"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(ImportRefused, match=r"test\.json") as refused:
        tallrec_books(tmp_path, "test")
    assert CANARY not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"no test\.json"):
        tallrec_books(write(tmp_path, [READ]), "test")


def one_line(words: str) -> str:
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in words.split("\n"))


@pytest.mark.parametrize(("part", "exact"), [("valid", 2_406), ("test", 2_391)])
def test_the_released_prompts_come_out_again(shared_data: Path, part: str, exact: int) -> None:
    """Byte for byte but for soft hyphens and no-break spaces, which a prompt of ours never holds."""
    folder = shared_data / "tallrec" / "book"
    with lzma.open(folder / f"{part}.json.xz", "rt", encoding="utf-8") as file:
        released = json.load(file)
    ours = [released_form(sample) for sample in tallrec_books(folder, part)]
    assert ours == [prompt | {"input": one_line(prompt["input"])} for prompt in released]
    assert sum(mine == theirs for mine, theirs in zip(ours, released, strict=True)) == exact
