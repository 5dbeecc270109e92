"""Certificates of the gateway, and reading how a client's TLS begins."""
