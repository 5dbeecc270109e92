"""
Renders records as text and HTML: executions, shapes, accounts, exported files.

Every function is pure. The HTML contains no script and no style sheet, so that it survives saving, Git hosts and
untrusted notebooks. `markup` escapes all values. Callers redact values before rendering.
"""
