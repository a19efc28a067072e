"""Data sets written for the project, and programs that use them."""
