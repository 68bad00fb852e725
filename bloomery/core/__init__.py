"""What every other part speaks: records, configuration, artefacts, files, metrics and errors."""
