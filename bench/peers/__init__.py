"""What is measured beside Luthier, in environments of its own."""
