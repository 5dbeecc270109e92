"""What a notebook shows and understands: its session, its magics and its widgets."""
