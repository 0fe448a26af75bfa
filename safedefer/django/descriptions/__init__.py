"""Querysets as descriptions: walked, built anew, and accepted only if both are the same query.

The walk looks at what Django keeps of a query, which is not documented and changes between versions. So it is never
believed: what it finds is built with ordinary filters, and has to give the very SQL and parameters of the queryset it
came from. A part that the walk does not know makes a queryset unsupported, never another one.
"""

from safedefer.django.descriptions.build import build_queryset
from safedefer.django.descriptions.describe import describe_queryset
from safedefer.django.descriptions.policy import DescriptionPolicy

__all__ = ["DescriptionPolicy", "build_queryset", "describe_queryset"]
