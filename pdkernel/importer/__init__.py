"""
Synced folders, brought into notebooks.

Knows what a notebook needs beside it and what is to be asked. Never writes in the folder that it imports, and never
over a notebook that says something else.

    accounts   whose account is meant, for every account id that a synced file holds
    one        a workflow's folder -> the notebook and its `pdkernel.yaml`, as texts
    report     what runs here as it is, and what is needed for the rest
    many       a whole repository, workflow by workflow; where each notebook stands
    place      the two files, compared with what is there and written
"""

from pdkernel.importer.account_questions import AccountAnswer, AccountQuestion, answer_questions
from pdkernel.importer.folder_import import ImportResult, find_workflow_folders, import_folder, plan_notebook_paths
from pdkernel.importer.notebook_texts import AskTrigger, ImportSource, read_for_import
from pdkernel.importer.requirements_report import build_import_report

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
