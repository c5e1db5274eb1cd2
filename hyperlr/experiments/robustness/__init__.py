"""`hyperlr robustness`: online methods from learning rates far too small or too large."""
