"""The JSON API of previews: what files look like, as PNG."""

from typing import Annotated, Any

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter

from remote.protocol.account import PreviewRequest
from remote.protocol.ids import NO_SPACE
from remote.server.http.api_common import FileNumber, SpaceAsked, device_of, file_id, space_id
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance

_PNG = "image/png"
Size = Annotated[
    int,
    QueryParameter(name="size", ge=128, le=1_024, description="At most so many pixels: 128, 256, 512 or 1024."),
]


def preview_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """The routes."""

    @get(
        "/files/{file:str}/preview",
        media_type=_PNG,
        summary="What a picture, a PDF or a video looks like, small",
        responses={200: ResponseSpec(bytes, media_type=_PNG, description="A PNG.", generate_examples=False)},
    )
    async def preview(
        request: AnyRequest, file: FileNumber, size: Size = 256, space: SpaceAsked = ""
    ) -> Response[bytes]:
        wanted = PreviewRequest(file_id(file), size, space_id(space) or NO_SPACE)
        found = await instance.previews.preview(await device_of(instance, request), wanted)
        # It changes with the file; who asks may keep it for a while.
        headers = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
        return Response(found.png, media_type=_PNG, headers=headers)

    return [preview]
