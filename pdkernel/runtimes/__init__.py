"""
Programs that run in their own processes: the workers' programs by language, and the warden.

They are started by path, use only the standard library of their language, and never import pdkernel. `process_tree` and
`file_tree` are used by the warden and by pdkernel.
"""
