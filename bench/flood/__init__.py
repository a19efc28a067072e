"""One project floods an inference server, another's first token comes all the same: `python -m bench.flood`."""
