"""Querysets whose description would have given other rows."""

from datetime import date, timedelta
from datetime import timezone as fixed
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone

from safedefer.django.descriptions import DescriptionPolicy, build_queryset, describe_queryset
from safedefer.errors import UnsupportedQuerySetError
from tests.site.library.models import Author, Book, Publisher

pytestmark = pytest.mark.django_db(databases=["default", "other"])
POLICY = DescriptionPolicy()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("how", ["or", "xor"])
def test_all_rows_within_an_or_stay_all_rows(how: str, turned: bool) -> None:
    Author.objects.bulk_create([Author(name="a"), Author(name="b")])
    one, other = Author.objects.all(), Author.objects.filter(name="a")
    if turned:
        one, other = other, one
    both = one | other if how == "or" else one ^ other
    try:
        rebuilt = build_queryset(describe_queryset(both, POLICY), POLICY)
    except UnsupportedQuerySetError:
        return
    assert {row.pk for row in rebuilt} == {row.pk for row in both}


def test_related_manager_stays_in_its_database() -> None:
    publisher = Publisher.objects.using("other").create(name="x", code="x")
    Author.objects.using("other").create(name="a", publisher=publisher)
    authors = Publisher.objects.using("other").get().authors.all()  # pyright: ignore[reportAttributeAccessIssue]
    rebuilt = build_queryset(describe_queryset(authors, POLICY), POLICY)
    assert rebuilt.db == authors.db == "other"
    assert rebuilt.count() == 1


def test_day_in_a_zone_without_a_name_is_refused() -> None:
    with timezone.override(fixed(timedelta(hours=10))):
        with pytest.raises(UnsupportedQuerySetError, match="time zone"):
            describe_queryset(Book.everything.filter(published__date=date(2021, 5, 7)), POLICY)
        # Nothing of it depends on the zone.
        assert describe_queryset(Book.everything.filter(pages=1), POLICY).label == "library.book"


class Halved(QuerySet[Author]):
    """Gives other rows than its SQL does."""

    def _fetch_all(self) -> None:
        super()._fetch_all()
        self._result_cache: Any = list(self._result_cache or [])[::2]


def test_queryset_class_with_ways_of_its_own_is_refused() -> None:
    with pytest.raises(UnsupportedQuerySetError, match="class of its own ways"):
        describe_queryset(Halved(Author), POLICY)


def test_describing_leaves_the_queryset_as_it_was() -> None:
    queryset = Book.everything.filter(author__name="a", author__mentor__name="b")
    before = {table: [*names] for table, names in queryset.query.table_map.items()}
    describe_queryset(queryset, POLICY)
    assert queryset.query.table_map == before
