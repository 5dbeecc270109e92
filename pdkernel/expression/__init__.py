"""
`{{ }}` expressions: finding them in values, the steps that they read, and substituting their results.

A Node.js worker evaluates the expressions.
"""

from pdkernel.expression.references import find_javascript_references, find_reference_lines
from pdkernel.expression.substitution import UNDEFINED, substitute_results
from pdkernel.expression.template import (
    Expression,
    Template,
    ValuePath,
    add_missing_braces,
    find_closing_braces,
    iter_templates,
    parse_template,
)

__all__ = [
    "UNDEFINED",
    "Expression",
    "Template",
    "ValuePath",
    "add_missing_braces",
    "find_closing_braces",
    "find_javascript_references",
    "find_reference_lines",
    "iter_templates",
    "parse_template",
    "substitute_results",
]
