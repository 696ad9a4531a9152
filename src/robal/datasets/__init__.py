"""Data sets, read from the files their publishers give out, or from images of somebody's own."""

from robal.datasets.arrays import from_arrays
from robal.datasets.catalogue import File, Known, catalogue, find_known, known_name
from robal.datasets.dataset import Dataset, resized
from robal.datasets.fetch import fetch
from robal.datasets.files import BROKEN, Found, channels_of, common_shape, load_folder, load_npz, walk_folder
from robal.datasets.loading import load
from robal.datasets.places import data_folder, present

__all__ = [
    "BROKEN",
    "Dataset",
    "File",
    "Found",
    "Known",
    "catalogue",
    "channels_of",
    "common_shape",
    "data_folder",
    "fetch",
    "find_known",
    "from_arrays",
    "known_name",
    "load",
    "load_folder",
    "load_npz",
    "present",
    "resized",
    "walk_folder",
]
