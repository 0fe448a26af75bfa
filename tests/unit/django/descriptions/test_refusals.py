"""What cannot travel as a description is told at the call, and what is forged is refused where it arrives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db.models import (
    CharField,
    Count,
    Exists,
    F,
    FilteredRelation,
    Model,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Value,
    lookups,
)
from django.db.models.functions import Lower
from django.test.utils import isolate_apps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedefer.core.iteration.description import (
    LOOKUPS,
    Condition,
    Conditions,
    Description,
    Junction,
    dump_description,
    parse_description,
)
from safedefer.core.limits import MAX_CONDITION_DEPTH, MAX_CONDITIONS
from safedefer.core.wire import WireError
from safedefer.django.descriptions import DescriptionPolicy, build_queryset, describe_queryset
from safedefer.django.order_field import resolve_order_field
from safedefer.errors import ArgumentsRefusedError, InvalidKeyRangesError, UnsupportedQuerySetError
from tests.site.library.models import Author, Book, Note, Review, Topic

pytestmark = pytest.mark.django_db
POLICY = DescriptionPolicy()
BOOKS = Book.everything

UNSUPPORTED: dict[str, tuple[Callable[[], Any], str]] = {
    "annotate": (lambda: BOOKS.annotate(n=Count("topics")), "annotate"),
    "alias": (lambda: BOOKS.alias(n=Lower("title")).filter(n="a"), "annotate"),
    "extra": (lambda: BOOKS.extra(where=["1=1"]), "ExtraWhere"),
    "extra columns": (lambda: BOOKS.extra(select={"x": "1"}), r"extra\(\)"),
    "subquery": (lambda: BOOKS.filter(author__in=Author.objects.filter(name="a")), "another queryset"),
    "exists": (lambda: BOOKS.filter(Exists(Review.objects.filter(book=OuterRef("pk")))), "Exists"),
    "not exists": (lambda: BOOKS.filter(~Exists(Review.objects.filter(book=OuterRef("pk")))), "NegatedExpression"),
    "union": (lambda: BOOKS.filter(pages=1).union(BOOKS.filter(pages=2)), "union"),
    "slice": (lambda: BOOKS.order_by("pk")[:3], "slice"),
    "distinct on": (lambda: BOOKS.distinct("title"), "distinct"),
    "for update": (BOOKS.select_for_update, "select_for_update"),
    "sum": (lambda: BOOKS.filter(pages=F("author__age") + 1), "CombinedExpression"),
    "function of a value": (lambda: BOOKS.filter(title=Lower(Value("A"))), "Lower"),
    "function of a column": (lambda: BOOKS.filter(lookups.Exact(Lower("title"), "a")), "Lower"),
    "values": (lambda: BOOKS.values("pk"), "values"),
    "filtered relation": (
        lambda: BOOKS.annotate(r=FilteredRelation("reviews", condition=Q(reviews__stars=1))).filter(r__stars=1),
        "join",
    ),
    "prefetch": (lambda: BOOKS.prefetch_related(Prefetch("topics", Topic.objects.all())), "Prefetch"),
    "a prefetch of no relation": (lambda: BOOKS.prefetch_related(*["title"]), "does not have"),
    "a prefetch behind any model": (lambda: Note.objects.prefetch_related("about__author"), "generic foreign key"),
    "a prefetch over too many relations": (
        lambda: BOOKS.prefetch_related("__".join(["author", "books"] * 5)),
        "too many relations",
    ),
    "all relations": (BOOKS.select_related, "select_related"),
    "regex": (lambda: BOOKS.filter(title__regex="(a+)+$"), "regex"),
    "exclude of a generic relation": (lambda: BOOKS.exclude(notes__text="a"), "subquery"),
    "a password": (lambda: BOOKS.filter(author__password="x"), "may not be asked about"),
    "two joins of one relation in an or": (
        lambda: Author.objects.filter(books__title="a").filter(books__pages=1) | Author.objects.filter(name="a"),
        "combination",
    ),
}


@pytest.mark.filterwarnings("ignore:Calling select_related")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_queryset_is_told_with_its_part_and_what_to_do(name: str) -> None:
    make, part = UNSUPPORTED[name]
    with pytest.raises(UnsupportedQuerySetError, match=f"(?s){part}.*@deferrable_queryset"):
        describe_queryset(make(), POLICY)


def test_value_of_a_condition_that_cannot_travel_is_told() -> None:
    with pytest.raises(ValueError, match="cannot travel as the value of a condition"):
        dump_description(book(where("pages", value=object())))


@isolate_apps("tests.site.library")
def test_field_that_prepares_its_values_twice_is_found_out() -> None:
    class Sealed(CharField):  # type: ignore[type-arg]
        def get_prep_value(self, value: Any) -> Any:
            return None if value is None else f"<{value}>"

    class Letter(Model):
        text = Sealed(max_length=20)

        class Meta:
            app_label = "library"

    with pytest.raises(UnsupportedQuerySetError):
        describe_queryset(Letter._default_manager.filter(text="x"), POLICY)


def test_policy_names_the_models() -> None:
    only_books = DescriptionPolicy(frozenset({"library.book"}))
    assert describe_queryset(BOOKS.filter(pages=1), only_books).label == "library.book"
    with pytest.raises(UnsupportedQuerySetError, match="may not be asked about"):
        describe_queryset(BOOKS.filter(author__name="a"), only_books)
    with pytest.raises(UnsupportedQuerySetError, match="registered function only"):
        describe_queryset(Author.objects.all(), only_books)
    whole_app = DescriptionPolicy(frozenset({"library.*"}))
    assert describe_queryset(Author.objects.all(), whole_app).label == "library.author"
    with pytest.raises(UnsupportedQuerySetError, match="QUERYSET_DESCRIPTIONS is off"):
        describe_queryset(BOOKS.all(), DescriptionPolicy(frozenset()))


def test_foreign_key_and_what_is_loaded_with_a_row_tell_nothing_of_the_other_model() -> None:
    only_books = DescriptionPolicy(frozenset({"library.book"}))
    for allowed in (
        BOOKS.filter(author=1),
        BOOKS.exclude(author__isnull=True),
        BOOKS.filter(pages=F("author_id")),
        BOOKS.select_related("author__publisher"),
        BOOKS.prefetch_related("topics", "reviews__reviewer"),
        BOOKS.only("author__name").select_related("author"),
    ):
        assert describe_queryset(allowed, only_books).label == "library.book"
    for refused in (
        BOOKS.filter(author__name="a"),
        BOOKS.filter(author__publisher=1),
        BOOKS.filter(topics=1),
        BOOKS.filter(reviews__isnull=True),
        BOOKS.filter(pages=F("author__age")),
    ):
        with pytest.raises(UnsupportedQuerySetError, match="may not be asked about"):
            describe_queryset(refused, only_books)


def test_private_apps_need_their_names() -> None:
    private = Description(label="library.book", using="default")
    assert build_queryset(private, POLICY).model is Book
    with pytest.raises(ArgumentsRefusedError):
        build_queryset(replace(private, label="sessions.session"), POLICY)
    # Not even installed here, so that nothing could come of it.
    assert not POLICY.allows(_model_of("auth"))
    assert DescriptionPolicy(frozenset({"auth.*"})).allows(_model_of("auth"))
    assert DescriptionPolicy(frozenset({"*", "auth.model"})).allows(_model_of("auth"))


@pytest.mark.parametrize("behind", ["concrete_model", "all_parents"])
def test_proxy_or_child_of_a_private_model_is_private_unless_it_is_named(behind: str) -> None:
    model, private = _model_of("shop"), _model_of("auth")
    assert POLICY.allows(model)
    setattr(model._meta, behind, private if behind == "concrete_model" else [private])
    assert not POLICY.allows(model)
    assert DescriptionPolicy(frozenset({"shop.model"})).allows(model)


def test_walk_along_a_password_is_refused() -> None:
    with pytest.raises(InvalidKeyRangesError, match="tell of its values"):
        resolve_order_field(Author.objects.all(), "password")


def _model_of(app: str) -> Any:
    class Meta:
        app_label = app
        label_lower = f"{app}.model"
        concrete_model = None
        all_parents = ()

    class Fake:
        _meta = Meta

    return Fake


def book(condition: Conditions, **changes: Any) -> Description:
    return replace(Description(label="library.book", using="default", filters=(condition,)), **changes)


def where(path: str, lookup: str = "exact", value: object = 1, column: str | None = None) -> Condition:
    return Condition(path=path, lookup=lookup, value=value, column=column)


FORGED: dict[str, Description] = {
    "a model that is none": book(where("pages"), label="library.nothing"),
    "no label": book(where("pages"), label="library"),
    "a label in capitals": book(where("pages"), label="library.Book"),
    "another alias": book(where("pages"), using="nowhere"),
    "an argument of Q": book(where("_connector", value="OR 1=1")),
    "a negation by argument": book(where("_negated")),
    "a lookup in the path": book(where("title__regex", value="(a+)+$")),
    "two lookups": book(where("title__exact", "contains", "a")),
    "a transform that is not allowed": book(where("title__lower", value="a")),
    "a field that is none": book(where("nothing")),
    "nothing": book(where("")),
    "a relation without a name": Description(
        label="library.author", using="default", filters=(where("Author_likes+__topic"),)
    ),
    "a relation that is none": book(where("title__name", value="a")),
    "a password": book(where("author__password", "startswith", "x")),
    "a password beside": book(where("pages", column="author__password")),
    "a generic foreign key": Description(label="library.note", using="default", filters=(where("about"),)),
    "a path without end": book(where("__".join(["author__books"] * 5) + "__title", value="a")),
    "JSON without end": book(where("__".join(["data", *"abcdefghi"]))),
    "no number": book(where("pages", value="not a number")),
    "no list": book(where("pages", "in", 3)),
    "no truth": book(where("pages", "isnull", "yes")),
    "half a range": book(where("pages", "range", [1])),
    "no UUID": book(where("serial", value="zzz")),
    "a column that is none": book(where("pages", column="author__nothing")),
    "only what is none": book(where("pages"), only=("nothing",)),
    "a join of nothing": book(where("pages"), select_related=("nothing",)),
    "a method": book(where("pages"), prefetch_related=("delete",)),
    "a method of a relation": book(where("pages"), prefetch_related=("topics__delete",)),
    "an attribute of the class": book(where("pages"), prefetch_related=("__class__",)),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_description_is_refused(name: str) -> None:
    with pytest.raises(ArgumentsRefusedError):
        list(build_queryset(FORGED[name], POLICY))


def test_descriptions_are_limited() -> None:
    condition: Conditions = where("pages")
    for _ in range(MAX_CONDITION_DEPTH):
        condition = Junction(connector="AND", negated=True, parts=(condition,))
    with pytest.raises(WireError, match="too deeply"):
        dump_description(book(condition))
    many = Junction(connector="OR", negated=False, parts=(where("pages"),) * MAX_CONDITIONS)
    with pytest.raises(WireError, match="too many"):
        dump_description(book(many))


def test_what_the_sql_repeats_counts_as_often() -> None:
    def nested(levels: int) -> Description:
        condition: Conditions = where("topics__name")
        for _ in range(levels):
            condition = Junction(connector="XOR", negated=True, parts=(condition, where("topics__name")))
        return book(condition)

    dump_description(nested(6))
    rows = build_queryset(nested(6), POLICY)
    assert len(str(rows.query)) < 500_000
    with pytest.raises(WireError, match="too many"):
        dump_description(nested(8))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        ["library.book", "default", [], False, [], [], []],
        ["library.book", "default", "x", False, [], [], [], []],
        ["library.book", "default", [["pages", "regex", 1]], False, [], [], [], []],
        ["library.book", "default", [["pages", "exact"]], False, [], [], [], []],
        ["library.book", "default", [["NAND", False, []]], False, [], [], [], []],
        ["library.book", "default", [["AND", 0, []]], False, [], [], [], []],
        ["library.book", "default", [[1, "exact", 1]], False, [], [], [], []],
        ["library.book", "default", [["pages", "exact", None, 5]], False, [], [], [], []],
        ["library.book", "default", [["pages", "exact", 1, "author__age"]], False, [], [], [], []],
        ["library.book", "default", [], 0, [], [], [], []],
        ["library.book", "default", [], False, [5], [], [], []],
        ["library.book", "default", [], False, ["x"] * 1000, [], [], []],
        ["library.book", None, [], False, [], [], [], []],
    ],
)
def test_other_trees_are_no_descriptions(tree: object) -> None:
    with pytest.raises(WireError):
        parse_description(tree)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.sampled_from(["pages", "author__name", "data__k", "exact", "in", "AND"]),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(["k", "v"]), parts, max_size=2),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [
        "title",
        "pages",
        "author__name",
        "data__k",
        "topics",
        "serial",
        "published__year",
        "cover",
        "lent_for",
        "pk",
        "notes",
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, st.sampled_from(sorted(LOOKUPS)), JUNK)
def test_any_value_makes_a_queryset_or_a_refusal(path: str, lookup: str, value: object) -> None:
    try:
        rows = build_queryset(book(where(path, lookup, value)), POLICY)
    except ArgumentsRefusedError:
        return
    assert type(rows) is QuerySet
    assert rows.model is Book


def test_note_is_reachable_by_its_own_fields() -> None:
    assert describe_queryset(Note.objects.filter(text="a"), POLICY).filters == (where("text", value="a"),)
