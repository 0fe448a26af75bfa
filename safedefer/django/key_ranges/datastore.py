"""Key ranges on Datastore through django-gcloud-connectors, from the hidden `__scatter__` property of its entities."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from django.db import connections
from django.db.models import QuerySet

from safedefer.django.datastore_pages import is_datastore, place_in_datastore
from safedefer.django.key_ranges.ranges import Pair, pairs_between, resolve
from safedefer.django.key_ranges.samples import every_nth
from safedefer.django.order_field import OrderField, to_key
from safedefer.errors import InvalidKeyRangesError
from safedefer.gcp.faults import calling_store

_SAMPLES_PER_SHARD: Final = 32
_IN_ONE_LOOKUP: Final = 100

RandomKeysGetter: TypeAlias = Callable[[QuerySet[Any], int], Sequence[object]]
"""Takes a queryset and a number of shards, returns primary keys of random rows, in any order."""


def find_random_keys(queryset: QuerySet[Any], shards: int) -> list[object]:
    """Primary keys of a random few of all entities of the model's kind, 32 for each shard at most.

    Datastore gives `__scatter__` to fewer than one entity in a hundred. It is asked without the queryset's filters:
    they would need an index of both, which can no longer be made.

    Raises:
        InvalidKeyRangesError: The queryset's database is no Datastore.
        StoreUnavailableError: Datastore did not answer.
    """
    if not is_datastore(queryset.db):
        raise InvalidKeyRangesError(
            f"datastore_key_ranges asks Datastore for __scatter__, and the alias {queryset.db!r} is "
            f"{connections[queryset.db].vendor}; use sampled_key_ranges, or give it a random_keys_getter"
        )
    connection: Any = connections[queryset.db]
    connection.ensure_connection()
    # The backend's own query would be ordered in memory, over all entities.
    query = connection.connection._client.query(kind=_kind(queryset))
    query.keys_only()
    query.order = ["__scatter__"]
    with calling_store("query for random keys"):
        return [entity.key.id_or_name for entity in query.fetch(limit=shards * _SAMPLES_PER_SHARD)]


def datastore_key_ranges(
    queryset: QuerySet[Any],
    shards: int,
    *,
    order_by: str = "pk",
    random_keys_getter: RandomKeysGetter = find_random_keys,
) -> list[Pair]:
    """Ranges between random keys. Kinds of a few thousand entities have too few of them, and become one range.

    Use it with `functools.partial` to give it a `random_keys_getter` of your own, for example where a queryset selects
    a small part of its kind.

    Args:
        order_by: Another field than the primary key takes the values of the random rows, which are read for it.
        random_keys_getter: Takes the queryset and `shards`; returns primary keys.
    Returns:
        `(start, end)` pairs, the outer ones open; fewer than asked for where the keys are few.
    """
    order = resolve(queryset, shards, order_by)
    if shards == 1:
        return [(None, None)]
    pks = {to_key(order.pk_field, key) for key in random_keys_getter(queryset, shards)}
    return pairs_between(every_nth(_keys_in_order(queryset, order, pks), shards))


def _keys_in_order(queryset: QuerySet[Any], order: OrderField, pks: set[Any]) -> list[Any]:
    """The keys of random rows, as the database orders them."""
    rows = queryset.model._base_manager.using(queryset.db)
    if not is_datastore(queryset.db):
        found = rows.filter(pk__in=pks).order_by(order.name).values_list(order.name, flat=True)
        return [to_key(order.field, value) for value in found if value is not None]
    if order.is_pk:
        return sorted(pks)
    values: set[Any] = set()
    keys = list(pks)
    for start in range(0, len(keys), _IN_ONE_LOOKUP):
        values.update(rows.filter(pk__in=keys[start : start + _IN_ONE_LOOKUP]).values_list(order.name, flat=True))
    found = {to_key(order.field, value) for value in values if value is not None}
    # Datastore orders texts by their UTF-8 bytes, as Python does by code points.
    return sorted(found, key=place_in_datastore)


def _kind(queryset: QuerySet[Any]) -> str:
    """The table of the topmost parent, under which the connector keeps all of a family."""
    meta = queryset.model._meta
    root = meta.all_parents[-1]._meta if meta.all_parents else meta.concrete_model._meta
    return str(root.db_table)
