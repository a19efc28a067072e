"""Mended copies of training files: what the linter found, changed row by row, and told. The file itself stays as it is."""
