"""The one exception that the command line turns into a single line and exit status 2."""


class InputError(ValueError):
    """What the user gave cannot work: the message names the field, file or row, and what to do.

    Everything else that escapes is a fault of the program and keeps its traceback.
    """
