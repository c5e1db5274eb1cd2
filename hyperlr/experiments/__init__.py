"""Experiments, their data, plots and command line. The library never imports them."""
