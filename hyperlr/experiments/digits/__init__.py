"""`hyperlr mnist`: Section 5 of the paper, schedules on a small set of digits."""
