"""
What stands in a cell: `%%pdstep` and `%%pdworkflow`, one grammar, both ways.

Knows the design's contract for cells. Knows nothing of notebooks' files, kernels or running.
"""

from pdkernel.directive.bare import dump_bare
from pdkernel.directive.cell import StepCell, is_step_cell, is_workflow_cell, parse_step_cell, step_cell
from pdkernel.directive.header import WorkflowHeader, parse_workflow_cell, read_settings
from pdkernel.directive.line import step_line
from pdkernel.directive.nearest import did_you_mean
from pdkernel.directive.options import OPTIONS, Option
from pdkernel.directive.psych import dump
from pdkernel.directive.triggers import read_trigger
from pdkernel.directive.values import is_uses
from pdkernel.directive.yaml_patch import Alignment, patch_yaml, same
from pdkernel.directive.yaml_text import LocatedYaml, read_yaml

__all__ = [
    "OPTIONS",
    "Alignment",
    "LocatedYaml",
    "Option",
    "StepCell",
    "WorkflowHeader",
    "did_you_mean",
    "dump",
    "dump_bare",
    "is_step_cell",
    "is_uses",
    "is_workflow_cell",
    "parse_step_cell",
    "parse_workflow_cell",
    "patch_yaml",
    "read_settings",
    "read_trigger",
    "read_yaml",
    "same",
    "step_cell",
    "step_line",
]
