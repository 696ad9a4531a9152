"""Engines: how a function is mapped over the images of a pool. Each gives the same rows."""

from robal.engines.local import Engine, Local, TileFunction
from robal.engines.on_ray import OnRay
from robal.engines.rows import empty
from robal.engines.shards import Sharded

__all__ = ["Engine", "Local", "OnRay", "Sharded", "TileFunction", "empty"]

ALIASES = {"local": "Local", "ray": "OnRay"}
