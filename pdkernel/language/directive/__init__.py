"""The grammar of the cells of steps, blocks and the workflow's header, both ways."""

from pdkernel.language.directive.block_cell import (
    BLOCK_MAGICS,
    build_unreadable_block,
    format_block_cell,
    is_block_cell,
    parse_block_cell,
    rename_block,
)
from pdkernel.language.directive.cell import (
    StepCell,
    build_unreadable_step,
    dump_cell_yaml,
    format_step_cell,
    is_step_cell,
    is_workflow_cell,
    parse_step_cell,
)
from pdkernel.language.directive.located_yaml import LocatedYaml, parse_yaml
from pdkernel.language.directive.psych_yaml import dump_yaml
from pdkernel.language.directive.step_line import (
    INSIDE_OPTION,
    STEP_OPTIONS,
    StepOption,
    format_step_line,
    is_action_reference,
)
from pdkernel.language.directive.workflow_header import (
    WORKFLOW_MAGIC,
    WorkflowHeader,
    build_trigger_mapping,
    describe_emitters,
    names_protective_setting,
    parse_settings,
    parse_trigger,
    parse_workflow_cell,
)
from pdkernel.language.directive.yaml_patch import Alignment, is_same_value, patch_yaml

__all__ = [
    "BLOCK_MAGICS",
    "INSIDE_OPTION",
    "STEP_OPTIONS",
    "WORKFLOW_MAGIC",
    "Alignment",
    "LocatedYaml",
    "StepCell",
    "StepOption",
    "WorkflowHeader",
    "build_trigger_mapping",
    "build_unreadable_block",
    "build_unreadable_step",
    "describe_emitters",
    "dump_cell_yaml",
    "dump_yaml",
    "format_block_cell",
    "format_step_cell",
    "format_step_line",
    "is_action_reference",
    "is_block_cell",
    "is_same_value",
    "is_step_cell",
    "is_workflow_cell",
    "names_protective_setting",
    "parse_block_cell",
    "parse_settings",
    "parse_step_cell",
    "parse_trigger",
    "parse_workflow_cell",
    "parse_yaml",
    "patch_yaml",
    "rename_block",
]
