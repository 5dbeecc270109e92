"""
The shape of JSON values: a tree of paths, a pandas table, a JSON Schema, and paths as Node.js and Python write them.

Samples are not redacted: pass `event.masked().data`, never the data of an unmasked event. Drawing is in `render`.
"""

from __future__ import annotations

from pdkernel.shape.data_frame import build_data_frame
from pdkernel.shape.inference import MAX_SHAPE_DEPTH, Shape, infer_shape
from pdkernel.shape.path_syntax import (
    EVENT_PATH,
    Segment,
    StepKind,
    format_node_path,
    format_path,
    format_python_path,
    get_step_kind,
    parse_path,
)
from pdkernel.shape.schema import build_schema, infer_schema

__all__ = [
    "EVENT_PATH",
    "MAX_SHAPE_DEPTH",
    "Segment",
    "Shape",
    "StepKind",
    "build_data_frame",
    "build_schema",
    "format_node_path",
    "format_path",
    "format_python_path",
    "get_step_kind",
    "infer_schema",
    "infer_shape",
    "parse_path",
]
