"""
Programs that other interpreters run: a person's steps, and the warden that ends them.

They are started by path, know only their own language's standard library, and never import pdkernel.
`process_tree` alone is used on both sides: the warden's and `hosts`'s.
"""
