"""The report: finished stages in, one HTML page that opens anywhere out."""
