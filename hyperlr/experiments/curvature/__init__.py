"""`hyperlr curvature`: what curvature says of the step size, on three losses and along a run."""
