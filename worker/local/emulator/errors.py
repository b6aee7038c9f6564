"""How the emulator refuses a request."""


class Refusal(Exception):
    """A request is answered with an error and changes nothing.

    status: HTTP status. code: the service's error code, such as `NoSuchBucket`. message: for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def invalid(message: str) -> Refusal:
    """A parameter of the request is beyond a limit or of the wrong kind."""
    return Refusal(400, "VectorIndexParameterInvalid", message)


def missing(name: str) -> Refusal:
    """A required parameter is absent."""
    return Refusal(400, "MissingArgument", f"The request must contain the parameter {name}.")
