"""The comparison of methods over tasks of several kinds."""
