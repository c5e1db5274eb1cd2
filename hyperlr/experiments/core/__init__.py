"""What all experiments share: the runner, what it keeps on disk, and how results are shown."""
