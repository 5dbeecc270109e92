"""What every package stands on: ids, clocks, encoding, redaction, files that are read safely, and threads for blocking calls."""
