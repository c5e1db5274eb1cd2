"""The one error a user's own input can cause; the command line shows it as a single line."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy."""
