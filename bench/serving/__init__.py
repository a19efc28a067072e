"""What `bench.serve` is made of: the machine, the adapters, the load, and the peers. Begin with `load`."""
