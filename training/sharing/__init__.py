"""Several jobs in one trainer: `turns` says whose turn it is, `fused` makes small passes of several jobs as one.

Imports what `training` may; `turns` no torch.
"""
