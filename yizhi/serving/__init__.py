"""Opened artifacts behind HTTP: rows of many clients share batches, and clients use protocols that they know."""

from yizhi.errors import NotRun

try:
    import orjson as orjson
    import prometheus_client as prometheus_client
    import pydantic as pydantic
    import starlette as starlette
    import uvicorn as uvicorn
except ImportError as error:
    raise NotRun("serving", f"needs {error.name}: pip install 'yizhi[serve]'") from None
