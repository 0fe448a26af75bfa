"""Rows of the library, the same at each seed, and filters over it."""

import datetime as dt
import random
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeVar

from django.db.models import F, Model, Q, QuerySet
from hypothesis import strategies as st

from tests.site.library.models import (
    Animal,
    Author,
    Book,
    Cell,
    Dog,
    Note,
    Profile,
    Publisher,
    Review,
    Shelving,
    Topic,
    Toy,
)

NAMES: Final = ("a", "b", "c")
_MOMENTS: Final = (dt.datetime(2020, 1, 1, 2, tzinfo=dt.UTC), dt.datetime(2021, 5, 6, 23, tzinfo=dt.UTC))
_DAYS: Final = (dt.date(2020, 1, 1), dt.date(2021, 5, 6))
_DATA: Final[tuple[object, ...]] = ({"k": 1}, {"k": "a"}, {"k": None}, {"n": {"m": [1, 2]}}, {}, [1], 3, "a")
T = TypeVar("T")


def populate(using: str = "default", seed: int = 1) -> None:
    """Some rows of each model, with values that meet and values that are missing."""
    rnd = random.Random(seed)

    def maybe(share: float, *values: T) -> T | None:
        return None if rnd.random() < share else rnd.choice(values)

    publishers = [
        Publisher.objects.using(using).create(name=rnd.choice(NAMES), city=maybe(0.3, *NAMES), code=f"c{number}")
        for number in range(3)
    ]
    topics = [Topic.objects.using(using).create(name=rnd.choice(NAMES), weight=maybe(0.3, 0, 1, 2)) for _ in range(4)]
    authors: list[Author] = []
    for _ in range(9):
        author = Author.objects.using(using).create(
            name=rnd.choice(NAMES),
            age=maybe(0.3, 0, 1, 2),
            publisher=maybe(0.3, *publishers),
            imprint=maybe(0.3, *publishers),
            mentor=maybe(0.5, *authors) if authors else None,
        )
        author.likes.set(rnd.sample(topics, rnd.randrange(3)))
        author.friends.set(rnd.sample(authors, min(len(authors), rnd.randrange(3))))
        authors.append(author)
        if rnd.random() < 0.5:
            Profile.objects.using(using).create(author=author, about=maybe(0.3, *NAMES))
    for _ in range(22):
        _add_book(using, rnd, maybe, authors, topics)
    for _ in range(4):
        Animal.objects.using(using).create(name=rnd.choice(NAMES), owner=maybe(0.3, *authors))
        dog = Dog.objects.using(using).create(
            name=rnd.choice(NAMES), owner=maybe(0.3, *authors), breed=maybe(0.3, *NAMES)
        )
        for _ in range(rnd.randrange(3)):
            Toy.objects.using(using).create(dog=dog, kind=maybe(0.3, *NAMES))
    for number in range(9):
        Cell.objects.using(using).create(sheet=number // 3, row=number % 3, text=maybe(0.3, *NAMES))


def _add_book(
    using: str, rnd: random.Random, maybe: Callable[..., Any], authors: list[Author], topics: list[Topic]
) -> None:
    book = Book.everything.using(using).create(
        title=rnd.choice(NAMES),
        pages=maybe(0.3, 0, 1, 2),
        price=Decimal(rnd.randrange(3)),
        published=maybe(0.3, *_MOMENTS),
        day=maybe(0.3, *_DAYS),
        lent_for=maybe(0.5, dt.timedelta(days=1)),
        data=maybe(0.2, *_DATA),
        serial=uuid.UUID(int=rnd.randrange(3)),
        archived=rnd.random() < 0.3,
        author=maybe(0.3, *authors),
        editor=rnd.choice(authors),
        cover=maybe(0.5, b"x", b"y"),
    )
    book.others.set(rnd.sample(authors, rnd.randrange(3)))
    for topic in rnd.sample(topics, rnd.randrange(3)):
        Shelving.objects.using(using).create(book=book, topic=topic, rank=maybe(0.3, 0, 1))
    for _ in range(rnd.randrange(3)):
        Review.objects.using(using).create(book=book, reviewer=maybe(0.3, *authors), stars=maybe(0.3, 0, 1, 2))
    Note.objects.using(using).create(about=book, text=rnd.choice(NAMES))


_S: Final = st.sampled_from(NAMES)
_I: Final = st.sampled_from([0, 1, 2])
_B: Final = st.booleans()


def _texts(path: str) -> list[tuple[str, st.SearchStrategy[Any]]]:
    return [
        (path, _S),
        (f"{path}__in", st.lists(_S, max_size=2)),
        (f"{path}__icontains", _S),
        (f"{path}__isnull", _B),
        (f"{path}__iexact", _S),
    ]


def _numbers(path: str) -> list[tuple[str, st.SearchStrategy[Any]]]:
    return [
        (path, _I),
        (f"{path}__gt", _I),
        (f"{path}__in", st.lists(st.none() | _I, max_size=3)),
        (f"{path}__isnull", _B),
        (f"{path}__range", st.tuples(_I, _I)),
    ]


LEAVES: Final[dict[type[Model], list[tuple[str, st.SearchStrategy[Any]]]]] = {
    Book: [
        *_texts("title"),
        *_numbers("pages"),
        *_numbers("price"),
        *_texts("author__name"),
        *_numbers("author__age"),
        *_texts("author__publisher__city"),
        *_texts("author__mentor__name"),
        *_numbers("editor__age"),
        ("author", _I),
        ("author__id", _I),
        ("author_id__in", st.lists(_I, max_size=2)),
        ("author__isnull", _B),
        ("author__imprint", st.sampled_from(["c0", "c1"])),
        ("author__imprint__name", _S),
        ("archived", _B),
        ("published__year", st.just(2020)),
        ("published__date", st.just(_DAYS[0])),
        ("published__date__month__gte", st.just(5)),
        ("published__lt", st.sampled_from(_MOMENTS)),
        ("day__year__gt", st.just(2020)),
        ("day", st.just(_DAYS[0])),
        ("lent_for", st.just(dt.timedelta(days=1))),
        ("serial__in", st.lists(st.integers(0, 2).map(lambda number: uuid.UUID(int=number)), max_size=2)),
        ("cover", st.just(b"x")),
        ("data__k", st.sampled_from([1, "a", None])),
        ("data__k__icontains", _S),
        ("data__n__m__0", _I),
        ("data__k__isnull", _B),
        ("data__has_key", st.sampled_from(["k", "n"])),
        ("data", st.sampled_from([{}, [1], {"k": 1}])),
        ("data__k__in", st.lists(st.sampled_from([1, "a"]), max_size=2)),
        ("data__k__gt", _I),
        ("pages", st.sampled_from([F("author__age"), F("editor__age"), F("author__mentor__age")])),
        ("title", st.just(F("author__name"))),
        ("pages__gt", st.just(F("reviews__stars"))),
        *_texts("topics__name"),
        *_numbers("topics__weight"),
        ("topics", _I),
        ("topics__in", st.lists(_I, max_size=2)),
        ("topics__isnull", _B),
        ("shelving__rank", _I),
        ("shelving__topic__name", _S),
        *_numbers("reviews__stars"),
        ("reviews__isnull", _B),
        ("reviews__reviewer__name", _S),
        ("others__name", _S),
        ("others", _I),
        ("author__books__title", _S),
        ("author__books__isnull", _B),
        ("author__likes__name", _S),
        ("author__profile__about", _S),
        ("author__profile__isnull", _B),
        ("author__mentor__books__pages__gt", _I),
        ("author__publisher__authors__age", _I),
        ("topics__books__title", _S),
        ("pk__in", st.lists(st.integers(1, 22), max_size=5)),
    ],
    Author: [
        *_texts("name"),
        *_numbers("age"),
        *_texts("publisher__name"),
        *_texts("books__title"),
        *_numbers("books__pages"),
        ("books", _I),
        ("books__isnull", _B),
        ("books__topics__name", _S),
        ("books__topics", _I),
        ("books__reviews__stars", _I),
        ("edited__pages", _I),
        ("shared_books__title", _S),
        ("friends__name", _S),
        ("friends", _I),
        ("friends__friends__age", _I),
        ("pupils__name", _S),
        ("mentor__pupils__age", _I),
        ("mentor__name", _S),
        ("profile__about", _S),
        ("profile__isnull", _B),
        ("profile", _I),
        ("likes__weight__gte", _I),
        ("pets__name", _S),
        ("pets__dog__breed", _S),
        ("pets__dog__toys__kind", _S),
        ("publisher__imprinted__name", _S),
        ("imprint__authors__name", _S),
        ("age", st.just(F("mentor__age"))),
        ("books__pages", st.just(F("age"))),
        ("books__author", _I),
        ("books__data__k", st.sampled_from([1, None])),
    ],
    Dog: [
        *_texts("name"),
        *_texts("breed"),
        *_texts("owner__name"),
        ("toys__kind", _S),
        ("toys__isnull", _B),
        ("owner__pets__name", _S),
        ("owner__books__title", _S),
        ("pk__in", st.lists(_I, max_size=3)),
        ("id", _I),
        ("owner", _I),
        ("animal_ptr__name", _S),
        ("toys__dog__breed", _S),
        ("owner__age", _I),
    ],
    Profile: [
        ("pk", _I),
        ("author__name", _S),
        ("author__books__title", _S),
        ("author__id__gt", _I),
        *_texts("about"),
        ("author", _I),
    ],
}
"""For each model, what may be asked of it, and with which values."""


def conditions(model: type[Model]) -> st.SearchStrategy[Q]:
    """Trees of conditions, joined and negated."""
    leaf = st.sampled_from(LEAVES[model]).flatmap(lambda pair: pair[1].map(lambda value: Q((pair[0], value))))
    return st.recursive(
        leaf,
        lambda parts: st.one_of(
            st.tuples(parts, parts).map(lambda two: two[0] & two[1]),
            st.tuples(parts, parts).map(lambda two: two[0] | two[1]),
            st.tuples(parts, parts).map(lambda two: two[0] ^ two[1]),
            parts.map(lambda one: ~one),
        ),
        max_leaves=6,
    )


def filtered(base: QuerySet[Any], model: type[Model]) -> st.SearchStrategy[QuerySet[Any]]:
    """Up to three calls of `filter()` and `exclude()`."""
    step = st.tuples(st.sampled_from(["filter", "exclude"]), conditions(model))

    def build(steps: list[tuple[str, Q]]) -> QuerySet[Any]:
        rows = base
        for kind, condition in steps:
            rows = rows.filter(condition) if kind == "filter" else rows.exclude(condition)
        return rows

    single = st.lists(step, min_size=1, max_size=3).map(build)
    return st.one_of(single, single, single.map(lambda rows: rows.distinct()))


def joined(base: QuerySet[Any], model: type[Model]) -> st.SearchStrategy[QuerySet[Any]]:
    """Two such querysets, joined by `|` or `&`."""
    two = st.tuples(filtered(base, model), filtered(base, model)).filter(
        lambda pair: pair[0].query.distinct == pair[1].query.distinct
    )
    return st.one_of(two.map(lambda pair: pair[0] | pair[1]), two.map(lambda pair: pair[0] & pair[1]))
