"""The forecast report: one HTML page that opens anywhere, offline."""
