"""Querysets of any filters: what is accepted gives the same rows again, and nearly everything is."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db.models import F, Model, Q, QuerySet
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedefer.core.iteration.description import Description, dump_description, parse_description
from safedefer.core.wire import pack, unpack
from safedefer.django.descriptions import DescriptionPolicy, build_queryset, describe_queryset
from safedefer.errors import UnsupportedQuerySetError
from tests.site.library.models import Animal, Author, Book, Cell, Dog, Note, Profile, Publisher, Reprint, Topic
from tests.support.library import filtered, joined, populate

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])
POLICY = DescriptionPolicy()


def travel(queryset: QuerySet[Any]) -> tuple[Description, QuerySet[Any]]:
    """What arrives of a queryset, through the bytes of a plan."""
    tree = unpack(pack(dump_description(describe_queryset(queryset, POLICY))))
    description = parse_description(tree)
    return description, build_queryset(description, POLICY)


def keys(queryset: QuerySet[Any]) -> list[str]:
    return sorted(repr(row.pk) for row in queryset)


@pytest.mark.parametrize(("kind", "share"), [(filtered, 0.95), (joined, 0.3)])
@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize(
    ("base", "model"),
    [
        (Book.everything.all, Book),
        (Author.objects.all, Author),
        (Dog.objects.all, Dog),
        (Profile.objects.all, Profile),
        (Reprint.objects.all, Book),
    ],
    ids=["book", "author", "dog", "profile", "proxy"],
)
def test_any_filters_give_the_same_rows_again(
    using: str,
    base: Callable[[], QuerySet[Any]],
    model: type[Model],
    kind: Callable[[QuerySet[Any], type[Model]], st.SearchStrategy[QuerySet[Any]]],
    share: float,
) -> None:
    populate(using)
    seen: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(kind(base().using(using), model))
    def check(queryset: QuerySet[Any]) -> None:
        try:
            _, rebuilt = travel(queryset)
        except UnsupportedQuerySetError:
            seen["refused"] += 1
            return
        seen["accepted"] += 1
        assert keys(rebuilt) == keys(queryset)
        assert keys(travel(rebuilt)[1]) == keys(queryset)

    check()
    assert seen["accepted"] >= share * seen.total()


SUPPORTED: dict[str, Callable[[], QuerySet[Any]]] = {
    "all rows": Book.everything.all,
    "no rows": Book.objects.none,
    "no keys": lambda: Book.everything.filter(pk__in=[]),
    "all but no keys": lambda: Book.everything.exclude(pk__in=[]),
    "none within or": lambda: Book.everything.filter(Q(pk__in=[]) | Q(pages=1)),
    "relations forward": lambda: Book.everything.filter(author__name="a", author__publisher__name="b"),
    "an instance": lambda: Book.everything.filter(author=Author.objects.first()),
    "an instance by another field": lambda: Author.objects.filter(imprint=Publisher.objects.first()),
    "instances of many": lambda: Book.everything.filter(topics__in=list(Topic.objects.all()[:2])),
    "one join": lambda: Author.objects.filter(books__title="a", books__pages=1),
    "two joins": lambda: Author.objects.filter(books__title="a").filter(books__pages=1),
    "three joins": lambda: (
        Author.objects.filter(books__title="a", books__pages=1).filter(books__pages=0).filter(books__title="b")
    ),
    "exclude of many": lambda: Author.objects.exclude(books__title="a", books__pages=1),
    "exclude of many, deep": lambda: Book.everything.exclude(author__mentor__books__pages__gt=0),
    "exclude of none": lambda: Book.everything.exclude(author__books__isnull=True),
    "exclude behind filter": lambda: Author.objects.filter(books__title="a").exclude(books__pages=1),
    "exclude within": lambda: Author.objects.filter(Q(books__title="a") & ~Q(books__pages=1)),
    "exclude with F": lambda: Book.everything.exclude(reviews__stars__gt=F("pages")),
    "a list with None": lambda: Book.everything.filter(pages__in=[1, None]),
    "a related manager": lambda: Author.objects.order_by("pk")[0].books.filter(  # pyright: ignore[reportAttributeAccessIssue]
        pages=1
    ),
    "distinct": lambda: Author.objects.filter(books__pages__gte=0).distinct(),
    "other columns": lambda: Book.everything.filter(pages=F("author__age")).exclude(pages=F("editor__age")),
    "JSON": lambda: Book.everything.filter(data__n__m__0=1).exclude(data__k="a"),
    "JSON null": lambda: Book.everything.filter(data__k=None),
    "parts of dates": lambda: Book.everything.filter(published__date__month__gte=5, day__year=2021),
    "a proxy": lambda: Reprint.objects.filter(author__books__title="a"),
    "a child": lambda: Dog.objects.filter(name="a", owner__name="b").exclude(toys__kind="a"),
    "a parent": lambda: Animal.objects.filter(dog__breed="a"),
    "xor": lambda: Book.everything.filter(Q(pages=1) ^ Q(author__age=1) ^ Q(archived=True)),
    "what its manager hides": lambda: Book.objects.filter(pages=1),
    "what another manager shows": lambda: Book.everything.filter(archived=True),
    "a key of two parts": lambda: Cell.objects.filter(pk=(1, 2)) | Cell.objects.filter(pk__in=[(0, 0), (0, 1)]),
    "symmetrical relations": lambda: Author.objects.filter(friends__name="a").exclude(friends=2),
    "a generic relation": lambda: Book.everything.filter(notes__text="a"),
    "either of two querysets": lambda: Book.everything.filter(pages=1) | Book.everything.filter(author__age=1),
    "bytes": lambda: Book.everything.filter(cover=b"x"),
    "its own order": lambda: Book.everything.order_by("-author__name", "pk").reverse(),
}


@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_queryset_gives_the_same_rows_again(name: str, using: str) -> None:
    populate()
    populate("postgres")
    queryset = SUPPORTED[name]().using(using)
    _, rebuilt = travel(queryset)
    assert (rebuilt.db, rebuilt.model) == (using, queryset.model)
    assert keys(rebuilt) == keys(queryset)
    assert keys(travel(rebuilt)[1]) == keys(queryset)


def test_what_is_loaded_with_the_rows_travels(django_assert_num_queries: Any) -> None:
    populate()
    wanted = (
        Book.everything.filter(author__isnull=False)
        .only("title", "author__name", "author__publisher")
        .select_related("author", "author__publisher")
        .prefetch_related("topics", "reviews__reviewer", "shelving_set__topic")
    )
    description, rebuilt = travel(wanted)
    assert description.only == ("author__name", "author__publisher", "title")
    assert description.select_related == ("author__publisher",)
    seen: list[object] = []
    with django_assert_num_queries(6):
        for book in rebuilt:
            assert book.get_deferred_fields() >= {"pages", "data"}
            assert book.author.name
            assert book.author.publisher is None or book.author.publisher.name
            seen += [*book.topics.all(), *(review.reviewer for review in book.reviews.all())]
            seen += [shelving.topic for shelving in book.shelving_set.all()]
    assert seen
    _, deferred = travel(Book.everything.defer("data", "cover"))
    assert deferred[0].get_deferred_fields() == {"data", "cover"}


def test_password_may_be_left_out_or_loaded() -> None:
    populate()
    assert all("password" in author.get_deferred_fields() for author in travel(Author.objects.defer("password"))[1])
    (description, rebuilt) = travel(Book.everything.select_related("author").only("title", "author__password"))
    assert description.only == ("author__password", "title")
    assert "name" in rebuilt.filter(author__isnull=False)[0].author.get_deferred_fields()


def test_rows_behind_a_generic_foreign_key_are_prefetched(django_assert_num_queries: Any) -> None:
    populate()
    _, rebuilt = travel(Note.objects.prefetch_related("about"))
    with django_assert_num_queries(2):
        assert any(note.about.title for note in rebuilt)


def test_day_is_that_of_the_zone_that_is_active() -> None:
    populate()
    with timezone.override("Asia/Tokyo"):
        queryset = Book.everything.filter(published__date="2021-05-07")
        _, rebuilt = travel(queryset)
        in_tokyo = keys(rebuilt)
        assert in_tokyo == keys(queryset) != []
    # Whoever walks it has the caller's zone active: it is made where it is read.
    with timezone.override("UTC"):
        assert keys(build_queryset(describe_queryset(queryset, POLICY), POLICY)) != in_tokyo
