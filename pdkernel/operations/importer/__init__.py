"""
Imports synced folders, and Pipedream's archive of a project, into notebooks.

An import never writes into the folder that it imports, and never overwrites a notebook with other content.

    notebook_texts   a workflow's folder -> questions about its accounts, and the texts of the notebook and its `pdkernel.yaml`
    import_report    the requirements of an imported workflow, as data, text and Markdown
    folder_import    a whole repository, workflow by workflow; writes the notebooks
    archive_import   a whole archive, with its manifest; the notebooks appear together
"""

from pdkernel.operations.importer.archive_import import ArchiveResult, explain_archive, import_archive
from pdkernel.operations.importer.folder_import import (
    ImportOptions,
    ImportResult,
    find_workflow_folders,
    import_folder,
    plan_notebook_paths,
)
from pdkernel.operations.importer.import_report import build_import_report
from pdkernel.operations.importer.notebook_texts import (
    AccountAnswer,
    AccountQuestion,
    AskTrigger,
    ImportSource,
    answer_questions,
    read_for_import,
)

__all__ = [
    "AccountAnswer",
    "AccountQuestion",
    "ArchiveResult",
    "AskTrigger",
    "ImportOptions",
    "ImportResult",
    "ImportSource",
    "answer_questions",
    "build_import_report",
    "explain_archive",
    "find_workflow_folders",
    "import_archive",
    "import_folder",
    "plan_notebook_paths",
    "read_for_import",
]
