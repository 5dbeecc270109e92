"""
Pre-built actions: their sources, their declared props, and the built-in actions.

    catalog             the actions of a project, by key and version; the cache of their declared props
    source_settings     the sources that the project has chosen
    source_lookup       an action in these sources, in their order; the built-in actions (`builtin/`); a checkout of components
    folder_index        the apps and keys of such a checkout, kept while nothing changes
    npm_source          packages @pipedream/APP, found, downloaded and installed from the registry of npm; the lock file
    connect_source      actions that Pipedream runs

Workers run the actions (`workers.component_client`).
"""

from pdkernel.actions.catalog import Catalog
from pdkernel.actions.component import ActionReference, Component, suggest_step_name
from pdkernel.actions.connect_source import ConnectSource
from pdkernel.actions.npm_source import LockedComponent

__all__ = ["ActionReference", "Catalog", "Component", "ConnectSource", "LockedComponent", "suggest_step_name"]
