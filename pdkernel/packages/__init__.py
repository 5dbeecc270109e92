"""
Packages that steps import, installed into the project.

    npm           packages of Node.js steps: which are there, installing those that are not
    npm_lock      the lock file beside the project
    npm_command   running npm, and its failures in words
"""

from pdkernel.packages.npm import LOCK_NAME, NpmPackages, NpmSpec, NpmTree

__all__ = ["LOCK_NAME", "NpmPackages", "NpmSpec", "NpmTree"]
