"""
Finds `{{ }}` in values, says which steps an expression reads, and puts results back.

Knows where an expression ends and how results become values again. Does not evaluate: that is a
JavaScript process's work.
"""

from pdkernel.expression.assembly import UNDEFINED, assemble
from pdkernel.expression.references import reference_lines, references
from pdkernel.expression.template import Expression, Path, Template, braced, find_end, parse_template, templates_in

__all__ = [
    "UNDEFINED",
    "Expression",
    "Path",
    "Template",
    "assemble",
    "braced",
    "find_end",
    "parse_template",
    "reference_lines",
    "references",
    "templates_in",
]
