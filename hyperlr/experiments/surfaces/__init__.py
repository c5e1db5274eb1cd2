"""`hyperlr toy`: Figure 1 of the paper, online methods on two surfaces in the plane."""
