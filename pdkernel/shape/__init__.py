"""
What an event looks like: a tree of paths, a table, a JSON Schema, and how to write a path in a step.

Knows JSON values and how Node.js and Python name a place in one. Knows nothing of drawing (`render`) and nothing of
secrets: samples are shown as they are, so hand in `event.masked().data`, never the data of an unmasked event.
"""

from __future__ import annotations

from pdkernel.shape.frame import frame
from pdkernel.shape.paths import Segment, node_path, parse_path, python_path
from pdkernel.shape.schema import schema, schema_of
from pdkernel.shape.tree import MAX_DEPTH, Shape, shape_of

__all__ = [
    "MAX_DEPTH",
    "Segment",
    "Shape",
    "frame",
    "node_path",
    "parse_path",
    "python_path",
    "schema",
    "schema_of",
    "shape_of",
]
