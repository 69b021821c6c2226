"""Model servers that are none: the documented shapes of their APIs over models that write words.

They were written from the sources and pages that the backends name, not from a running server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
GB = 10**9


class Fake:
    """Models by name, and whether each serves; every call that manages is kept in `calls`."""

    def __init__(self, *names: str) -> None:
        self.serves = dict.fromkeys(names or ("coder-1b", "coder-7b", "org/chat-3b"), False)
        self.calls: list[str] = []
        self.writing = 0
        self.cut = 0  # streams whose client went away

    def app(self, routes: dict[str, Handler]) -> web.Application:
        """Routes as `POST /path/{name}`."""
        app = web.Application()
        for route, handler in (routes | {"POST /v1/chat/completions": self.chat}).items():
            method, path = route.split(" ")
            app.router.add_route(method, path, self.noted(handler))
        return app

    def noted(self, handler: Handler) -> Handler:
        async def noting(request: web.Request) -> web.StreamResponse:
            body = await request.text()
            if request.method == "POST" and not request.path.startswith("/v1/"):
                self.calls.append(f"{request.rel_url} {body}".strip())
            return await handler(request)

        return noting

    last_event = b"data: [DONE]\n\n"

    def refuses(self, name: str, messages: object) -> bool:
        """Most of these servers load a model by themselves when it is asked."""
        if name not in self.serves or not isinstance(messages, list):
            return True
        self.serves[name] = True
        return False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Writes `max_tokens` words, one each millisecond."""
        body = await request.json()
        name, messages = body["model"], body["messages"]
        if self.refuses(name, messages):
            error = {"type": "invalid_request_error", "message": f"cannot answer {json.dumps(body)}"}
            return web.json_response({"error": error}, status=400)
        prompt = sum(len(message["content"].split()) for message in messages)
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        if not body.get("stream"):
            await asyncio.sleep(0.001 * body["max_tokens"])
            text = "word " * int(body["max_tokens"])
            return web.json_response({"choices": [{"message": {"content": text}}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.writing += 1
        try:
            for _ in range(body["max_tokens"]):
                await _event(response, {"choices": [{"delta": {"content": "word "}}]})
                await asyncio.sleep(0.001)
            if body.get("stream_options"):
                await _event(response, {"choices": [], "usage": usage})
            await response.write(self.last_event)
        except (ConnectionError, asyncio.CancelledError):
            self.cut += 1
            raise
        finally:
            self.writing -= 1
        return response


async def _event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(data)}\n\n".encode())


class Sleeper(Fake):
    """A process of one model, awake at first, which answers nobody in its sleep."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.serves[name] = True

    def refuses(self, name: str, messages: object) -> bool:
        return not self.serves.get(name) or not isinstance(messages, list)


def fake_vllm(fake: Fake) -> web.Application:
    """Sleeps and wakes."""
    (name,) = fake.serves

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "vllm"}]})

    async def is_sleeping(request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": not fake.serves[name]})

    async def sleep(request: web.Request) -> web.Response:
        if request.query.get("mode", "abort") == "wait":
            while fake.writing:
                await asyncio.sleep(0.001)
        fake.serves[name] = False
        return web.Response()

    async def wake_up(request: web.Request) -> web.Response:
        fake.serves[name] = True
        return web.Response()

    async def empty(request: web.Request) -> web.Response:
        return web.Response()

    return fake.app(
        {
            "GET /v1/models": models,
            "GET /is_sleeping": is_sleeping,
            "POST /sleep": sleep,
            "POST /wake_up": wake_up,
            "POST /collective_rpc": empty,
            "POST /reset_prefix_cache": empty,
        }
    )


def fake_llama_swap(fake: Fake) -> web.Application:
    """Loads what is asked for."""

    async def models(request: web.Request) -> web.Response:
        rows = [
            {"id": name, "status": {"value": "loaded" if serves else "unloaded"}}
            for name, serves in fake.serves.items()
        ]
        return web.json_response({"object": "list", "data": rows})

    async def running(request: web.Request) -> web.Response:
        rows = [
            {"model": name, "state": "ready", "cmd": "", "proxy": "", "ttl": 0, "name": "", "description": ""}
            for name, serves in fake.serves.items()
            if serves
        ]
        return web.json_response({"running": rows})

    async def upstream(request: web.Request) -> web.Response:
        fake.calls.append(request.raw_path)
        fake.serves[request.match_info["name"]] = True
        return web.Response(text="File Not Found", status=404)

    async def unload(request: web.Request) -> web.Response:
        if request.match_info["name"] not in fake.serves:
            return web.Response(text="model not found", status=404)
        fake.serves[request.match_info["name"]] = False
        return web.Response(text="OK")

    return fake.app(
        {
            "GET /v1/models": models,
            "GET /running": running,
            "GET /upstream/{name}/": upstream,
            "POST /api/models/unload/{name}": unload,
        }
    )


def fake_ollama(fake: Fake) -> web.Application:
    """Loads what is asked for, by a request without a prompt or with one."""

    async def tags(request: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": name, "model": name, "size": GB} for name in fake.serves]})

    async def ps(request: web.Request) -> web.Response:
        rows = [{"name": name, "size": 2 * GB, "size_vram": 2 * GB} for name, serves in fake.serves.items() if serves]
        return web.json_response({"models": rows})

    async def generate(request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] not in fake.serves:
            return web.json_response({"error": "model not found"}, status=404)
        fake.serves[body["model"]] = leaves = body.get("keep_alive") != 0
        reason = "load" if leaves else "unload"
        return web.json_response({"model": body["model"], "response": "", "done": True, "done_reason": reason})

    return fake.app({"GET /api/tags": tags, "GET /api/ps": ps, "POST /api/generate": generate})


def fake_lm_studio(fake: Fake) -> web.Application:
    """Every load makes one more instance."""
    instances: dict[str, list[str]] = {name: [] for name in fake.serves}

    async def models(request: web.Request) -> web.Response:
        rows: list[dict[str, Any]] = [
            {
                "key": name,
                "type": "llm",
                "size_bytes": GB,
                "loaded_instances": [{"id": one, "config": {}} for one in ids],
            }
            for name, ids in instances.items()
        ]
        rows.append({"key": "embedder", "type": "embedding", "size_bytes": GB, "loaded_instances": []})
        return web.json_response({"models": rows})

    async def load(request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        if name not in instances:
            return web.json_response({"error": {"type": "model_not_found", "message": "no such model"}}, status=404)
        instances[name].append(f"{name}:{len(instances[name]) + 1}")
        answer = {"type": "llm", "instance_id": instances[name][-1], "load_time_seconds": 0.1, "status": "loaded"}
        return web.json_response(answer)

    async def unload(request: web.Request) -> web.Response:
        leaving = (await request.json())["instance_id"]
        for ids in instances.values():
            if leaving in ids:
                ids.remove(leaving)
                return web.json_response({"instance_id": leaving})
        return web.json_response({"error": {"type": "model_not_found", "message": "no such instance"}}, status=404)

    return fake.app(
        {"GET /api/v1/models": models, "POST /api/v1/models/load": load, "POST /api/v1/models/unload": unload}
    )


def fake_local_ai(fake: Fake) -> web.Application:
    """Calls that load answer when the model is there."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in fake.serves]})

    async def system(request: web.Request) -> web.Response:
        loaded = [{"id": name, "backend": "llama-cpp"} for name, serves in fake.serves.items() if serves]
        return web.json_response({"backends": ["llama-cpp"], "loaded_models": loaded})

    async def load(request: web.Request) -> web.Response:
        fake.serves[(await request.json())["model"]] = True
        return web.json_response({"loaded": [(await request.json())["model"]], "message": "model loaded"})

    async def shutdown(request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        if not fake.serves.get(name):
            return web.json_response({"error": {"message": "not loaded", "code": 404, "type": ""}}, status=404)
        fake.serves[name] = False
        return web.json_response({"message": "model stopped"})

    return fake.app(
        {
            "GET /v1/models": models,
            "GET /system": system,
            "POST /backend/load": load,
            "POST /backend/shutdown": shutdown,
        }
    )
