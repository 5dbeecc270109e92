"""
Packages that steps import, installed into the project.

    npm           packages of Node.js steps: which are there, installing those that are not
    npm_lock      the lock file beside the project
    npm_command   running npm, and its failures in words
    python        environments of Python steps
    python_lock   the lock file beside the project
    pip           running pip, and its failures in words
"""

from pdkernel.packages.npm_lock import NpmLock
from pdkernel.packages.npm_packages import NPM_LOCK_NAME, NpmPackages, NpmSpec, NpmTree
from pdkernel.packages.pip import ProgressCallback, PythonInstallError
from pdkernel.packages.python_environments import PythonEnvironment, PythonPackages
from pdkernel.packages.python_lock import PYTHON_LOCK_NAME as PYTHON_LOCK_NAME

__all__ = [
    "NPM_LOCK_NAME",
    "PYTHON_LOCK_NAME",
    "NpmLock",
    "NpmPackages",
    "NpmSpec",
    "NpmTree",
    "ProgressCallback",
    "PythonEnvironment",
    "PythonInstallError",
    "PythonPackages",
]
