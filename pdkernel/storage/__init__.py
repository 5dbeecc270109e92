"""
The local project: a folder, a key and a database that several threads and processes use at once.

    folder                find and create `.pdkernel/`; the key file
    vault                 encryption of values before they reach the database
    sealed_columns        the columns with encrypted values, and their locations
    key_rotation          a new key for all encrypted values
    sqlite                open the SQLite file, shared with the journal
    postgres              open a database on a PostgreSQL server
    database              engine, creation, migration, readable errors
    schema                the tables, the same on SQLite and Postgres
    accounts              external users and accounts
    variables             environment variables
    notebook_states       the state of each notebook's session
    idempotency           stored responses to outbound calls that are sent once
    settings              settings and the project's own secrets, by name
    source_states         the state of event sources
    source_turns          which server runs an event source now
    connect_tokens        tokens of Connect Link
    pending_sign_ins      sign-ins at an app that have not ended yet
    grants                OAuth grants that renew access tokens
    deployed_triggers     event sources of external users, and their events
    workflow_triggers     triggers of served workflows
    answered_requests     requests to event sources that have a response, and whose sources have not ended
    batches               ticks of schedules that run a workflow for each external user
    trigger_events        events of both kinds of triggers that wait for runs and webhooks
    schedule              computes when a timer is due
    endpoint_keys         keys in URLs of workflows and deployed triggers
    oauth_clients         OAuth clients of the endpoint
    client_keys           public keys of OAuth clients without a secret
    access_tokens         access tokens of these clients: signing, verification, revocation
    pipedream_tokens      access tokens that Pipedream issued through this server
    data_stores           data stores and their records
    scratch_stores        scratch copies of data stores, which test runs write
    login                 the login at Pipedream: the Connect project and its OAuth client
"""

from pdkernel.storage.accounts import Grant
from pdkernel.storage.answered_requests import AnsweredRequest, AnsweredRequestTable, IdempotencyTable
from pdkernel.storage.batches import Batch, BatchTable
from pdkernel.storage.data_stores import DEFAULT_DATA_STORE, DataStoreSummary, DataStoreTable, StoreRecord, check_key
from pdkernel.storage.deployed_triggers import DeployedTrigger, DeployedTriggerTable, Webhook
from pdkernel.storage.folder import find_project
from pdkernel.storage.login import Login
from pdkernel.storage.project import Project
from pdkernel.storage.schedule import Schedule
from pdkernel.storage.scratch_stores import ScratchByStep, ScratchByUser, ScratchCopy, ScratchState, StepStores
from pdkernel.storage.settings import NotebookStateTable
from pdkernel.storage.short_lived_tokens import ConnectToken, PendingSignIn
from pdkernel.storage.source_states import SourceStateTable
from pdkernel.storage.trigger_events import EventTarget, TriggerEvent
from pdkernel.storage.vault import Vault
from pdkernel.storage.workflow_triggers import TriggerState, WorkflowTriggerTable, is_workflow_named

__all__ = [
    "DEFAULT_DATA_STORE",
    "AnsweredRequest",
    "AnsweredRequestTable",
    "Batch",
    "BatchTable",
    "ConnectToken",
    "DataStoreSummary",
    "DataStoreTable",
    "DeployedTrigger",
    "DeployedTriggerTable",
    "EventTarget",
    "Grant",
    "IdempotencyTable",
    "Login",
    "NotebookStateTable",
    "PendingSignIn",
    "Project",
    "Schedule",
    "ScratchByStep",
    "ScratchByUser",
    "ScratchCopy",
    "ScratchState",
    "SourceStateTable",
    "StepStores",
    "StoreRecord",
    "TriggerEvent",
    "TriggerState",
    "Vault",
    "Webhook",
    "WorkflowTriggerTable",
    "check_key",
    "find_project",
    "is_workflow_named",
]
