"""Which items a caller wants to choose among: conditions on public facts of the catalog, all of which an item must meet."""

from __future__ import annotations

from dataclasses import dataclass

from service.records import Attribute, CatalogEntry

CATEGORY, YEAR, AUTHOR = "category", "year", "author"
_ATTRIBUTE = "attribute:"

Value = Attribute | int


def attribute_field(name: str) -> str:
    """The field of a condition on an attribute."""
    return _ATTRIBUTE + name


@dataclass(frozen=True, slots=True)
class Condition:
    """What the values of one field must be: among `any_of` one, `all_of` each, of `none_of` none; a number in a range.

    The range includes its ends. An item without the field meets `none_of` alone.
    """

    field: str
    any_of: frozenset[tuple[bool, Value]] | None = None
    all_of: frozenset[tuple[bool, Value]] = frozenset()
    none_of: frozenset[tuple[bool, Value]] = frozenset()
    least: float | None = None
    most: float | None = None

    def holds_of(self, entry: CatalogEntry) -> bool:
        """Whether the item meets it."""
        values = values_of(entry, self.field)
        told = frozenset(map(tagged, values))
        if self.any_of is not None and told.isdisjoint(self.any_of):
            return False
        return self.all_of <= told and told.isdisjoint(self.none_of) and self._in_range(values)

    def _in_range(self, values: tuple[Value, ...]) -> bool:
        if self.least is None and self.most is None:
            return True
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return any(
            (self.least is None or self.least <= number) and (self.most is None or number <= self.most)
            for number in numbers
        )


Conditions = tuple[Condition, ...]


def tagged(value: Value) -> tuple[bool, Value]:
    """A value that equals another one of its kind alone: true is not 1."""
    return isinstance(value, bool), value


def values_of(entry: CatalogEntry, field: str) -> tuple[Value, ...]:
    """What an item states of a field; empty where it says nothing."""
    if field == CATEGORY:
        return entry.item.genres
    if field == YEAR:
        return () if entry.item.year is None else (entry.item.year,)
    if field == AUTHOR:
        return () if entry.item.author is None else (entry.item.author,)
    name = field.removeprefix(_ATTRIBUTE)
    return (entry.attributes[name],) if name in entry.attributes else ()
