"""
The shape of JSON values: a tree of paths, a pandas table, a JSON Schema, and paths as Node.js and Python write them.

Samples of fields with secret names and credentials are masked. Pass `event.with_masked_headers().data`, never the data of an unmasked
event, because other headers may be secret, too. Drawing is in `render`.
"""

from __future__ import annotations

from pdkernel.language.shape.inference import (
    ANY_KEY,
    MAX_CHANGES,
    MAX_KEYS,
    MAX_PATHS,
    MAX_SHAPE_DEPTH,
    MIN_MAP_KEYS,
    Change,
    ChangeKind,
    Difference,
    Shape,
    ShapeBuilder,
    build_data_frame,
    build_schema,
    compare_values,
    infer_schema,
    infer_shape,
)
from pdkernel.language.shape.path_syntax import (
    EVENT_PATH,
    Segment,
    StepKind,
    format_node_path,
    format_path,
    format_python_path,
    get_step_kind,
    parse_path,
)

__all__ = [
    "ANY_KEY",
    "EVENT_PATH",
    "MAX_CHANGES",
    "MAX_KEYS",
    "MAX_PATHS",
    "MAX_SHAPE_DEPTH",
    "MIN_MAP_KEYS",
    "Change",
    "ChangeKind",
    "Difference",
    "Segment",
    "Shape",
    "ShapeBuilder",
    "StepKind",
    "build_data_frame",
    "build_schema",
    "compare_values",
    "format_node_path",
    "format_path",
    "format_python_path",
    "get_step_kind",
    "infer_schema",
    "infer_shape",
    "parse_path",
]
