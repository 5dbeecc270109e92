"""
Packages that steps import, installed into the project.

    npm           packages of Node.js steps: which are there, installing those that are not
    npm_lock      the lock file beside the project
    npm_command   running npm, and its failures in words
    python        environments of Python steps
    python_lock   the lock file beside the project
    pip           running pip, and its failures in words
"""

from pdkernel.packages.npm import NpmPackages, NpmSpec, NpmTree
from pdkernel.packages.pip import PythonInstallError
from pdkernel.packages.python import PythonEnvironment, PythonPackages

__all__ = ["NpmPackages", "NpmSpec", "NpmTree", "PythonEnvironment", "PythonInstallError", "PythonPackages"]
