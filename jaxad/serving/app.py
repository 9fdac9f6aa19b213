"""The addresses of the service, and what surrounds every request."""

import logging
import pathlib
import re
import time
import uuid
from typing import Any

import pydantic
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import jaxad
from jaxad.serving import metrics
from jaxad.serving.batching import Full
from jaxad.serving.refusals import Refusal
from jaxad.serving.service import Service
from jaxad.serving.uploads import PredictBody

_LOG = logging.getLogger(__name__)
_PAGE = pathlib.Path(__file__).with_name("page.html")
_QUIET = {"/healthz", "/readyz", "/metrics"}  # which machines ask for all the time
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_DEFECT = "a defect of this service; its log has more under the request's id"
_CODES = {404: "not_found", 405: "method_not_allowed"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


# ---- What is answered, which /openapi.json says


class MapImage(pydantic.BaseModel):
    png: str = pydantic.Field(description="In base64.")
    low: float | None = pydantic.Field(
        None,
        description="With `map=values` a pixel of 16 bits stands for the score low + "
        "(pixel - 1) / 65534 * (high - low); 0 is where nobody has looked.",
    )
    high: float | None = None


class Result(pydantic.BaseModel):
    name: str
    width: int
    height: int
    score: float
    p_value: float | None
    verdict: str | None = pydantic.Field(description="anomalous or normal.")
    regions: list[tuple[int, int, int, int, int]] | None = pydantic.Field(
        description="[x, y, width, height, area] above pixel_threshold, in pixels of "
        "the image, the largest first."
    )
    note: str | None = None
    map: MapImage | None = None


class Answer(pydantic.BaseModel):
    category: str
    detector: str = pydantic.Field(description="Changes whenever the detector does.")
    threshold: float | None
    pixel_threshold: float | None
    results: list[Result]


class Category(pydantic.BaseModel):
    name: str
    detector: str
    image_size: tuple[int, int] = pydantic.Field(description="[height, width]")
    threshold: float | None
    pixel_threshold: float | None
    calibration_images: int | None
    guarantee: str | None


class Categories(pydantic.BaseModel):
    categories: list[Category]


class Told(pydantic.BaseModel):
    code: str
    message: str
    request_id: str


class Error(pydantic.BaseModel):
    error: Told


_REFUSED = {
    status: {"model": Error} for status in (400, 404, 408, 413, 415, 422, 500, 503)
}
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "category": {"type": "string"},
        "map": {"enum": ["none", "picture", "values"]},
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _FORM},
        "application/json": {"schema": PredictBody.model_json_schema()},
    },
}


def make(service: Service) -> FastAPI:
    """The application of a service, which `server` runs."""
    app = FastAPI(
        title="jaxad",
        version=jaxad.__version__,
        summary="Judges images by what good ones look like.",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    page = _PAGE.read_text("utf-8")

    @app.post(
        "/v1/predict",
        response_model=Answer,
        response_model_exclude_unset=True,
        responses=_REFUSED,
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(request: Request) -> Any:
        """Judges one image or several, of one category."""
        return await service.predict(request)

    @app.get("/v1/categories", response_model=Categories)
    async def categories() -> Any:
        """What can be asked for."""
        return {"categories": service.categories()}

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: {}})
    async def readyz(response: Response) -> dict[str, str]:
        """Whether it can be asked for predictions."""
        if not service.ready:
            response.status_code = 503
            return {"status": "compiling"}
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    def numbers() -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def first() -> HTMLResponse:
        return HTMLResponse(page, headers=_HEADERS)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return _refused(request, error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "bad_request")
        message = {
            404: f"there is nothing at {request.url.path[:80]}",
            405: f"{request.url.path[:80]} does not take {request.method[:20]}",
        }.get(error.status_code, str(error.detail))
        refusal = Refusal(error.status_code, code, message)
        return _refused(request, refusal, error.headers)

    app.add_middleware(_Around, service=service)
    return app


def _refused(request: Request, refusal: Refusal, headers=None) -> JSONResponse:
    state = request.scope["state"]
    state["refused"] = refusal
    told = {"code": refusal.code, "message": refusal.message}
    headers = dict(headers or {})
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    content = {"error": {**told, "request_id": state["request_id"]}}
    return JSONResponse(content, refusal.status, headers)


class _Around:
    """Gives a request its name, limits its body, and tells of it when it is answered.

    What is larger than allowed is refused where it says so in its head, or else while
    it arrives; what comes after that is not kept.
    """

    def __init__(self, app, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, state = time.perf_counter(), scope.setdefault("state", {})
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        state["request_id"] = given if _ID.fullmatch(given) else uuid.uuid4().hex
        most, received, status = self._service.limits.body, 0, None

        def require_small(size: int) -> None:
            if size > most:
                raise Refusal(
                    413,
                    "body_too_large",
                    f"the body is larger than {most / 2**20:.4g} MB; send fewer or "
                    "smaller images",
                )

        async def limited():
            nonlocal received
            length = headers.get(b"content-length", "")
            if length.isdecimal():
                require_small(int(length[:20]))
            message = await receive()
            size = len(message.get("body", b""))
            require_small(received + size)
            try:
                self._service.bytes.take(size)
            except Full:
                raise self._service.busy() from None
            received += size
            return message

        async def marked(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", state["request_id"].encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, limited, marked)
        except Exception:
            fields = {"request_id": state["request_id"]}
            _LOG.exception("defect", extra={"fields": fields})
            if status is None:
                answer = _refused(Request(scope), Refusal(500, "internal", _DEFECT))
                await answer(scope, receive, marked)
        finally:
            self._service.bytes.give_back(received)
            self._tell(scope, status or 500, time.perf_counter() - start)

    def _tell(self, scope, status: int, seconds: float) -> None:
        state, numbers = scope["state"], self._service.metrics
        refused = state.get("refused")
        if scope["path"] == "/v1/predict" and scope["method"] == "POST":
            numbers.requests.labels(status).inc()
            numbers.seconds.observe(seconds)
            if refused is not None:
                numbers.refusals.labels(refused.code).inc()
        if scope["path"] in _QUIET and status != 500:
            return
        fields = {
            "request_id": state["request_id"],
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
            **state.get("told", {}),
        }
        if refused is not None:
            fields |= {"code": refused.code, "message": refused.message}
        _LOG.info("request", extra={"fields": fields})
