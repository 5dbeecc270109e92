"""
Draws records as text and as HTML: executions, shapes, accounts, exported files.

Knows how things look; decides nothing and reads nothing but its arguments. Every function is pure. The HTML holds no
script and no style sheet, so that it survives saving, Git hosts and untrusted notebooks; all that comes from outside
is escaped in `markup`. What it shows must have been through redaction before.
"""
