"""
Programs that other interpreters run: a person's steps, and the warden that ends them.

They are started by path, know only their own language's standard library, and never import pdkernel.
`process_tree` and `file_tree` are used on both sides: by the warden, and by pdkernel.
"""
