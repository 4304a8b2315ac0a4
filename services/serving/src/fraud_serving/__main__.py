"""`python -m fraud_serving`: one process, one event loop, settings from SERVING_* variables."""

import asyncio
import os

import uvicorn
import uvloop

from fraud_serving import process
from fraud_serving.http import app
from fraud_serving.service import Service
from fraud_serving.settings import BadSettingError, Settings


async def _serve(settings: Settings, service: Service) -> None:
    public = uvicorn.Server(process.server_config(app.public(service), settings.host, settings.port))
    if not settings.internal_port:
        await public.serve()
        return
    internal = process.InternalServer(
        process.server_config(app.internal(service), settings.host, settings.internal_port)
    )
    task = asyncio.create_task(internal.serve())
    try:
        await public.serve()
    finally:
        internal.should_exit = True
        await task


def main() -> None:
    """Run until SIGTERM or SIGINT. Requests in progress are answered and logged before the process ends."""
    process.configure_logging()
    try:
        settings = Settings.load(os.environ)
        service = Service.of(settings)
    except BadSettingError as error:
        process.exit_for_setting(error)
    process.configure_garbage_collection()
    uvloop.run(_serve(settings, service))


if __name__ == "__main__":
    main()
