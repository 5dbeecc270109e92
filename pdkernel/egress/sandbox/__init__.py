"""The guard: on Linux the operating system stops, or leads to the gateway, what the hooks and variables do not catch."""
