"""Tests of the move away from Pipedream."""
