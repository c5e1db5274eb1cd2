"""What curvature says about the largest stable step."""
