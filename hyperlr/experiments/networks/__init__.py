"""Networks that are trained or measured in more than one place."""
