"""
Pre-built actions: their sources, their declared props, and the built-in actions.

    catalog             the actions of a project, by key and version; the cache of their declared props
    source_settings     the sources that the project has chosen
    source_lookup       an action in these sources, in their order
    lock                the lock file: the package version of each action
    builtin_source      the built-in actions (`builtin/`)
    npm_source          packages @pipedream/APP, found, downloaded and installed from the registry of npm
    folder_source       a checkout of components
    connect_source      actions that Pipedream runs

Workers run the actions (`workers.component_client`).
"""

from pdkernel.actions.action_reference import ActionReference, suggest_step_name
from pdkernel.actions.catalog import Catalog
from pdkernel.actions.component import Component
from pdkernel.actions.connect_source import ConnectSource
from pdkernel.actions.lock import LockedComponent

__all__ = ["ActionReference", "Catalog", "Component", "ConnectSource", "LockedComponent", "suggest_step_name"]
