"""Engines: how a function is mapped over the images of a pool."""

from robal.engines.local import Engine, Local, TileFunction

__all__ = ["Engine", "Local", "TileFunction"]
