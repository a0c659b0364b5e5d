"""From tables to panels of regular series, and from panels to batches of windows."""
