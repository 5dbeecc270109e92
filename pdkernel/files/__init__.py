"""Workflows as files, both ways: notebooks, synced folders, and the deployable files of a workflow."""
