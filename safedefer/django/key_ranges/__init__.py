"""Key ranges: how a queryset is cut into the shards of an iteration, one module for each family of strategies."""
