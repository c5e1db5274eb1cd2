"""The size of short runs on the digits, whose network is a small one."""

SIZE = {"num_steps": 10, "batch_size": 20, "hidden_widths": (16, 16)}
