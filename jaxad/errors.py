"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Something the user can mend: a file, a field, a shape, a value.

    The message is one clear sentence that names the file, field or shape and says what
    to do. The command line prints it without a traceback; every other exception is a
    defect of this project and keeps its traceback.
    """
