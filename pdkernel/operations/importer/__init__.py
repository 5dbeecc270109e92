"""
Imports synced folders into notebooks.

An import never writes into the folder that it imports, and never overwrites a notebook with other content.

    account_questions     account choices for the account ids in a synced file
    notebook_texts        a workflow's folder -> the texts of the notebook and its `pdkernel.yaml`
    import_report         the requirements of an imported workflow, as data, text and Markdown
    requirements_report   which steps can run, and the requirements of the others
    folder_import         a whole repository, workflow by workflow; writes the notebooks
"""

from pdkernel.operations.importer.account_questions import AccountAnswer, AccountQuestion, answer_questions
from pdkernel.operations.importer.folder_import import (
    ImportResult,
    find_workflow_folders,
    import_folder,
    plan_notebook_paths,
)
from pdkernel.operations.importer.notebook_texts import AskTrigger, ImportSource, read_for_import
from pdkernel.operations.importer.requirements_report import build_import_report

__all__ = [
    "AccountAnswer",
    "AccountQuestion",
    "AskTrigger",
    "ImportResult",
    "ImportSource",
    "answer_questions",
    "build_import_report",
    "find_workflow_folders",
    "import_folder",
    "plan_notebook_paths",
    "read_for_import",
]
