"""
Crash tests of the user's own workflows: what a crash makes done twice, and what it loses.

    points    crash points, and the files in which processes report them and their calls
    process   a process that executes runs as a server does, and dies at a crash point
    policy    the outbound policy: real hosts do not answer by default
    stand_in_process  built-in stand-ins, which remember what a killed process has sent
    tester    the control runs, which do not crash, and a run with a crash at each point
    findings  what a crash changes
    report    the report, with what mends each finding

Calls are answered by a stand-in or a recording. The user's project is only read.
"""

from pdkernel.annex.crash_test.policy import REAL_CALLS_OPTION, choose_crash_policy
from pdkernel.annex.crash_test.report import CrashReport
from pdkernel.annex.crash_test.tester import MAX_POINTS, CrashTest

__all__ = ["MAX_POINTS", "REAL_CALLS_OPTION", "CrashReport", "CrashTest", "choose_crash_policy"]
