"""
Renders values as text and HTML: executions, lookups, shapes, exported files.

Every function is pure. The HTML contains no script and no style sheet, so that saved notebooks show it on Git hosts and before
they are trusted. `markup` escapes all values. The caller redacts values before rendering.
"""
