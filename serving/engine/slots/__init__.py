"""Adapters side by side on one base: each linear layer holds some of them in slots.

Imports torch and `modeling`. Begin with `lora`.
"""
