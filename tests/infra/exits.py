#!/usr/bin/env python3
"""A proxy that lets nobody out: what the clients' HTTP_PROXY and HTTPS_PROXY point at.

    exits.py LISTEN_PORT LOG GATEWAY_HOST:PORT

Whoever asks it for anything tried to leave, is refused with 403, and stands in LOG: one line of JSON each.
A request for the gateway itself is relayed and not logged: one client (hf-hub 0.4 over ureq) sends all its
requests through the proxy whatever NO_PROXY says.
"""
import asyncio
import json
import sys

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\nConnection: close\r\n\r\nno exit\n"


async def relay(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(reader, writer, log, gateway):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
        return
    first, rest = head.split(b"\r\n", 1)
    method, target, _ = first.decode("latin-1").split(" ", 2)
    host = target if method == "CONNECT" else target.split("://", 1)[-1].split("/", 1)[0]
    if host == gateway and method != "CONNECT":
        # One request a connection, so that the next one is looked at as well.
        headers = [line for line in rest.split(b"\r\n") if line and not line.lower().startswith((b"connection:", b"proxy-"))]
        path = "/" + target.split("://", 1)[1].partition("/")[2]
        lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), *headers, b"Connection: close", b"", b""]
        up_reader, up_writer = await asyncio.open_connection(*gateway.rsplit(":", 1))
        up_writer.write(b"\r\n".join(lines))
        await asyncio.gather(relay(up_reader, writer), relay(reader, up_writer))
        return
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps({"method": method, "host": host, "target": target}) + "\n")
    writer.write(REFUSAL)
    try:
        await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def main():
    port, log, gateway = sys.argv[1:]
    open(log, "a", encoding="utf-8").close()
    server = await asyncio.start_server(lambda r, w: serve(r, w, log, gateway), "127.0.0.1", int(port))
    async with server:
        await server.serve_forever()


asyncio.run(main())
