"""What a request is answered with where it cannot be served."""

from typing import NamedTuple


class Refusal(Exception):
    """Ends a request with a sentence.

    Attributes:
      status: of HTTP.
      code: a word that programs tell it by.
      message: the sentence.
      retry_after: seconds after which to try again; None where that does not help.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = retry_after


class Limits(NamedTuple):
    """What a service takes.

    Attributes:
      body: bytes of a request.
      pixels: of an image.
      images: that it works on at a time, waiting ones among them.
      together: as many of the largest bodies and images may be in memory at a time.
    """

    body: int = 32 << 20
    pixels: int = 89_478_485  # from where on Pillow warns of a decompression bomb
    images: int = 128
    together: int = 4

    @property
    def images_of_request(self) -> int:
        return min(64, self.images)
