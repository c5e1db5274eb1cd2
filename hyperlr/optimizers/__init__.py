"""Adaptive optimizers whose derivatives are finite and right at zero gradients."""
