"""
The console: pages under `/-/` on which a person sees and steers the runs of a server.

    sessions     one-time codes, sessions, and the limit of failed logins
    access       who may open a page or act, and the login
    pages        templates, headers, style sheet and script
    live         server-sent events: changes of the list of runs and of one run
    workflows    the page of workflows
    runs         the list of runs, one run, and its actions
    batches      batches of a schedule, with their failed and skipped users
    users        external users, their accounts and their readiness
    routes       the routes of these pages
"""
