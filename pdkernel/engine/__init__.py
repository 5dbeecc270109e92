"""Runs a workflow on an event, records what happened, and goes on after a crash."""
