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

from pdkernel.importing.accounts import AccountQuestion, Answer, answer_all
from pdkernel.importing.many import Imported, find_folders, import_folder, places
from pdkernel.importing.one import ReadFolder, TriggerAnswers, read_for_import
from pdkernel.importing.report import report_on

__all__ = [
    "AccountQuestion",
    "Answer",
    "Imported",
    "ReadFolder",
    "TriggerAnswers",
    "answer_all",
    "find_folders",
    "import_folder",
    "places",
    "read_for_import",
    "report_on",
]
