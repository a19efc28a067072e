"""What fine-tuning did to a base: in its weights, and in what it says. Run as a process, `python -m modeling.insight`."""
