"""
`{{ }}` expressions: finding them in values, the steps that they read, and substituting their results.

Plain paths are evaluated in Python, other expressions by a Node.js worker.
"""

from pdkernel.language.expression.rules import OBSERVED_OPERATORS, RULE_FILTER, RULE_FILTER_PROP, RuleError, RuleFilter
from pdkernel.language.expression.substitution import (
    UNDEFINED,
    Evaluation,
    evaluate_plain_paths,
    is_plain_path,
    substitute_results,
)
from pdkernel.language.expression.template import (
    Expression,
    Template,
    ValuePath,
    add_missing_braces,
    find_closing_braces,
    find_javascript_references,
    find_reference_lines,
    iter_templates,
    parse_template,
)

__all__ = [
    "OBSERVED_OPERATORS",
    "RULE_FILTER",
    "RULE_FILTER_PROP",
    "UNDEFINED",
    "Evaluation",
    "Expression",
    "RuleError",
    "RuleFilter",
    "Template",
    "ValuePath",
    "add_missing_braces",
    "evaluate_plain_paths",
    "find_closing_braces",
    "find_javascript_references",
    "find_reference_lines",
    "is_plain_path",
    "iter_templates",
    "parse_template",
    "substitute_results",
]
