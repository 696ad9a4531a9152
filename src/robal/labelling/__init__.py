"""People label in a browser: a page for the pending question of a run, served on this machine."""

from robal.labelling.demo import begin_demo
from robal.labelling.desk import Desk
from robal.labelling.doubts import corrected, doubted
from robal.labelling.exchange import exported, taken_in
from robal.labelling.server import serve

__all__ = ["Desk", "begin_demo", "corrected", "doubted", "exported", "serve", "taken_in"]
