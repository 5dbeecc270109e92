"""Whatever is sent to the server, it answers as it is described, keeps its secrets and does not grow."""
