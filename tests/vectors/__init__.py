"""Frozen bytes: what version 1 of the wire format looks like."""
