"""From the body of a request to images, and to what is asked about them.

A form (multipart/form-data) has files as `image` or `images`, and the fields `category`
and `map`. JSON has the same in `PredictBody`, images in base64. A name is a label that
the answer repeats; no file is ever opened by one.
"""

import asyncio
import base64
import binascii
import functools
import math
from typing import Literal, NamedTuple, get_args

import pydantic
from fastapi import Request
from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from jaxad.data import given, images
from jaxad.errors import InputError, did_you_mean
from jaxad.inference import pictures
from jaxad.inference.predictor import Predictor
from jaxad.serving.refusals import Limits, Refusal

Map = Literal["none", "picture", "values"]
_FILES, _FIELDS = ("image", "images"), ("category", "map")
_SECONDS = 30  # in which a body has to come
_LONGEST = 255  # letters of a name
_END = 4096  # bytes, in which the end of a form is looked for

Name = pydantic.Field(default=None, description="Repeated in the answer.")


class JsonImage(pydantic.BaseModel, extra="forbid"):
    name: str | None = Name
    data: str = pydantic.Field(description="The file, in base64.")


class PredictBody(pydantic.BaseModel, extra="forbid"):
    images: list[JsonImage] = pydantic.Field(min_length=1)
    category: str | None = None
    map: Map = "none"


class Upload(NamedTuple):
    name: str
    encoded: bytes


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
      images: one or more.
      category: None where none is named.
      map: what is wanted of anomaly maps.
    """

    images: list[Upload]
    category: str | None
    map: Map


class Opened(NamedTuple):
    """An image that was decoded.

    Attributes:
      read: as the detector sees it.
      picture: for people, no larger than it is shown; None where it is not wanted.
    """

    read: given.Read
    picture: Image.Image | None


def bad(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)


async def asked(request: Request, limits: Limits) -> Asked:
    """Reads the body.

    Raises:
      Refusal: it is of another kind, cannot be read, or does not come.
    """
    if request.url.query:
        raise bad(
            "nothing is read from behind the ? of the address; send category and map "
            "as fields of the form or of the JSON"
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal(
            415,
            "unsupported_media_type",
            f"a body with Content-Encoding {encoding[:40]} is not taken; send it as it "
            "is",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(_SECONDS):
            if kind == "multipart/form-data":
                found = await _of_form(request, limits)
            elif kind == "application/json":
                body = await request.body()
                found = await asyncio.to_thread(_of_json, body, limits)
            else:
                raise Refusal(
                    415,
                    "unsupported_media_type",
                    f"Content-Type is {kind[:40] or 'missing'}; send a form, "
                    "multipart/form-data, with the file as image, or JSON, "
                    "application/json",
                )
    except TimeoutError:
        raise Refusal(
            408, "body_timeout", f"the body has not come within {_SECONDS} seconds"
        ) from None
    except ClientDisconnect:
        raise bad("the connection was closed before the body was there") from None
    return found


async def _of_form(request: Request, limits: Limits) -> Asked:
    _, options = parse_options_header(request.headers["content-type"])
    boundary, end = options.get(b"boundary"), b""
    closing = b"--%s--" % boundary if boundary else b""

    async def receive() -> dict:
        nonlocal end
        message = await request.receive()
        end = (end + message.get("body", b""))[-_END:]
        if not message.get("more_body") and closing not in end:
            # Its last file would be left out without a word.
            raise bad("the form is cut off; its closing boundary is missing")
        return message

    form = Request(request.scope, receive).form(
        max_files=limits.images_of_request + 1, max_fields=16, max_part_size=4096
    )
    try:
        async with form as found:  # closes its temporary files
            return await _of_fields(found, limits)
    except HTTPException as error:
        raise bad(f"the form cannot be read ({error.detail.rstrip('.')})") from None


async def _of_fields(form: FormData, limits: Limits) -> Asked:
    options, files = {}, []
    for name, value in form.multi_items():
        if name in _FILES:
            if isinstance(value, str):
                raise bad(
                    f"{name} is text, and has to be the file itself, as of "
                    f"curl -F {name}=@part.png; no path is opened"
                )
            files.append(value)
        elif name not in _FIELDS:
            known = (*_FILES, *_FIELDS)
            hint = did_you_mean(name, known) or f"; it takes {', '.join(known)}"
            raise bad(f"the form has no field {name[:40]!r}{hint}")
        elif not isinstance(value, str) or name in options:
            raise bad(f"{name} has to be one text")
        else:
            options[name] = value
    if not files:
        raise bad("the form has no image; send the file as image")
    _require_few(len(files), limits)
    uploads = [
        Upload(named(file.filename, i), await file.read())
        for i, file in enumerate(files)
    ]
    wanted = options.get("map", "none")
    if wanted not in get_args(Map):
        hint = did_you_mean(wanted[:40], get_args(Map))
        raise bad(f"map is {wanted[:40]!r}{hint}; it may be {', '.join(get_args(Map))}")
    return Asked(uploads, options.get("category"), wanted)


def _of_json(body: bytes, limits: Limits) -> Asked:
    try:
        found = PredictBody.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise bad(
            f"the JSON cannot be read: {place}{place and ': '}{first['msg']}"
        ) from None
    _require_few(len(found.images), limits)
    uploads = []
    for i, one in enumerate(found.images):
        name = named(one.name, i)
        try:
            encoded = base64.b64decode(one.data, validate=True)
        except (binascii.Error, ValueError):
            raise bad(
                f"data of {name} is not base64; send the bytes of the file in base64, "
                "no path, no address and no data: before it"
            ) from None
        uploads.append(Upload(name, encoded))
    return Asked(uploads, found.category, found.map)


def _require_few(count: int, limits: Limits) -> None:
    if count > limits.images_of_request:
        raise Refusal(
            413,
            "too_many_images",
            f"a request takes {limits.images_of_request} images; send several requests",
        )


def named(name: str | None, index: int) -> str:
    """What the answer calls an image.

    Raises:
      Refusal: whoever wrote a file of that name would not write it where he thinks.
    """
    if not name:
        return f"image {index}"
    if set(name) & {"/", "\\"} or not name.isprintable() or name in (".", ".."):
        shown = name[:40].encode("unicode_escape").decode()
        raise Refusal(
            400,
            "bad_name",
            f"image {index} is called '{shown}'; name it without folders and control "
            "characters",
        )
    if len(name) > _LONGEST:
        raise Refusal(
            400,
            "bad_name",
            f"the name of image {index} has {len(name)} letters; {_LONGEST} are the "
            "most",
        )
    return name


def header(upload: Upload, predictor: Predictor, limits: Limits) -> images.Header:
    """Looks at an image before it is decoded.

    Raises:
      Refusal: it is none, or is too large.
    """
    name, encoded = upload
    if not encoded:
        raise bad(f"{name} is empty; send the bytes of the file")
    try:
        found = images.header(encoded)
    except images.NoImage:
        raise Refusal(
            415,
            "not_an_image",
            f"{name} is not an image; PNG, JPEG, BMP, TIFF, WebP, GIF, JPEG 2000, PNM "
            "and AVIF are",
        ) from None
    except images.Unreadable as error:
        raise _unreadable(f"{name} cannot be read ({error})") from None
    most = min(limits.pixels, predictor.max_pixels or limits.pixels)
    if math.prod(found.extent) > most:
        height, width = found.extent
        raise Refusal(
            413,
            "too_many_pixels",
            f"{name} has {height} x {width} pixels, more than {most}; send it smaller",
        )
    return found


def opened(upload: Upload, predictor: Predictor, *, picture: bool) -> Opened:
    """Decodes an image that `header` has let through.

    Args:
      upload: the image.
      predictor: whose size it is brought to.
      picture: whether one for people is wanted.

    Raises:
      Refusal: it cannot be read.
    """
    name, shown = upload.name, []

    def decode() -> Image.Image:
        try:
            decoded = images.decode_image(upload.encoded, 0)
        except images.Unreadable as error:
            raise InputError(f"{name} cannot be read ({error})") from None
        if picture:
            shown.append(pictures.small(decoded))
        return decoded

    read = predictor.read(given.Item(name, decode))
    if read.error is not None:
        raise _unreadable(read.error)
    return Opened(read, shown[0] if shown else None)


_unreadable = functools.partial(Refusal, 422, "unreadable_image")
