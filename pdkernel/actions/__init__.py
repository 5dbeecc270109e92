"""
Pre-built actions: which there are, where they come from, and those that come with pdkernel.

    catalog     all of a project's, by key and version
    choices     where they run, as the project has chosen
    lock        where each came from, for people to commit
    own         the built-in ones (`builtin/`)
    npm         packages @pipedream/APP, through `registry` and `version_search`
    folder      a checkout of components
    connect     those that Pipedream runs
    described   what components were found to declare

Knows where an action is and what it says of itself. Running one is the work of a step's process.
"""

from pdkernel.actions.action_reference import ActionReference, get_app_slug, suggest_step_name
from pdkernel.actions.catalog import Catalog
from pdkernel.actions.component import Component
from pdkernel.actions.connect_source import ConnectSource

__all__ = ["ActionReference", "Catalog", "Component", "ConnectSource", "get_app_slug", "suggest_step_name"]
