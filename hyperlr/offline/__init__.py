"""Hypergradients of whole schedules: LRS-OPT."""
