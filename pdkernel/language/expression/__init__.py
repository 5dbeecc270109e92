"""
`{{ }}` expressions: finding them in values, the steps that they read, substituting their results, and conditions of branches.

Plain paths are evaluated in Python, other expressions by a Node.js worker.
"""

from pdkernel.language.expression.conditions import (
    EXPRESSION_KEY,
    describe_condition,
    find_condition_errors,
    get_condition_template,
    get_switch_template,
    is_truthy,
    iter_condition_sources,
    judge_branch,
    read_operands,
    wrap_expression,
)
from pdkernel.language.expression.rules import (
    OBSERVED_OPERATORS,
    RULE_FILTER,
    RULE_FILTER_PROP,
    RULE_OPERATORS,
    RuleError,
    RuleFilter,
    check_rules,
    describe_rules,
    evaluate_rules,
    is_rules,
)
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
    "EXPRESSION_KEY",
    "OBSERVED_OPERATORS",
    "RULE_FILTER",
    "RULE_FILTER_PROP",
    "RULE_OPERATORS",
    "UNDEFINED",
    "Evaluation",
    "Expression",
    "RuleError",
    "RuleFilter",
    "Template",
    "ValuePath",
    "add_missing_braces",
    "check_rules",
    "describe_condition",
    "describe_rules",
    "evaluate_plain_paths",
    "evaluate_rules",
    "find_closing_braces",
    "find_condition_errors",
    "find_javascript_references",
    "find_reference_lines",
    "get_condition_template",
    "get_switch_template",
    "is_plain_path",
    "is_rules",
    "is_truthy",
    "iter_condition_sources",
    "iter_templates",
    "judge_branch",
    "parse_template",
    "read_operands",
    "substitute_results",
    "wrap_expression",
]
