"""The contrasts of docs/study.md: variants trained alike, evaluated on the same scenes."""
