"""
Finds and installs the packages that steps import, in the project's folder.

    npm_packages          packages of Node.js steps: find and install; their lock file
    npm_command           runs npm and explains its failures
    python_environments   environments of Python steps: resolved, installed, and shared by runs
    install_progress      lines about an installation, each second
    bytecode              compiles modules and what they import
    python_lock           the lock file of Python packages
    uv_command            runs uv with the user's settings of pip, and explains its failures
"""

from pdkernel.packages.install_progress import (
    ProgressCallback,
    ProgressUpdate,
    measure_go_modules,
    report_each_second,
)
from pdkernel.packages.npm_packages import NPM_LOCK_NAME, LockedSet, NpmLock, NpmPackages, NpmSpec, NpmTree
from pdkernel.packages.python_environments import PythonEnvironment, PythonPackages
from pdkernel.packages.python_lock import PYTHON_LOCK_NAME, LockBlock
from pdkernel.packages.uv_command import PythonInstallError

__all__ = [
    "NPM_LOCK_NAME",
    "PYTHON_LOCK_NAME",
    "LockBlock",
    "LockedSet",
    "NpmLock",
    "NpmPackages",
    "NpmSpec",
    "NpmTree",
    "ProgressCallback",
    "ProgressUpdate",
    "PythonEnvironment",
    "PythonInstallError",
    "PythonPackages",
    "measure_go_modules",
    "report_each_second",
]
