"""
The local project: a folder, a key and a database that several threads and processes use at once.

    folder     `.pdkernel/`: finding it, making it, its key file
    vault      what is sealed before it reaches the database
    sqlite     one way to open the SQLite file, shared with the journal
    database   engine, creation, the checks when it is opened, faults as sentences
    schema     the tables, the same on SQLite and Postgres
    accounts clients variables notebooks sent settings source_states     one table each
    secrets connect_tokens link_visits grants     one table each, for Connect Link
    deployed_triggers schedule     event sources that run for external users, and when; what they emitted
    endpoints     keys in URLs, of workflows and deployed triggers
    client_keys       public keys in a secret's place
    access_tokens     what clients are given: signed, read, revoked
    issued_tokens     what a real project's API has given out through us
    stores     data stores and their records
    login      which Connect project at Pipedream it works with

Knows nothing of workflows, runs or HTTP.
"""

from pdkernel.project.connect_tokens import ConnectToken
from pdkernel.project.data_stores import DEFAULT_DATA_STORE, DataStoreSummary, DataStoreTable, StoreRecord, check_key
from pdkernel.project.deployed_triggers import DeployedTrigger, DeployedTriggerTable, Webhook
from pdkernel.project.folder import find_project
from pdkernel.project.grants import Grant
from pdkernel.project.idempotency import IdempotencyTable
from pdkernel.project.login import Login
from pdkernel.project.notebook_states import NotebookStateTable
from pdkernel.project.pending_sign_ins import PendingSignIn
from pdkernel.project.project import Project
from pdkernel.project.schedule import Schedule
from pdkernel.project.source_states import SourceStateTable
from pdkernel.project.vault import Vault

__all__ = [
    "DEFAULT_DATA_STORE",
    "ConnectToken",
    "DataStoreSummary",
    "DataStoreTable",
    "DeployedTrigger",
    "DeployedTriggerTable",
    "Grant",
    "IdempotencyTable",
    "Login",
    "NotebookStateTable",
    "PendingSignIn",
    "Project",
    "Schedule",
    "SourceStateTable",
    "StoreRecord",
    "Vault",
    "Webhook",
    "check_key",
    "find_project",
]
