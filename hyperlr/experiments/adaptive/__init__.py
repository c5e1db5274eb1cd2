"""`hyperlr adaptive`: adaptive optimizers on a dense and a sparse feature."""
