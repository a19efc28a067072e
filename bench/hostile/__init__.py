"""One tenant attacks a server while another one's waits are measured: `python -m bench.hostile`."""
