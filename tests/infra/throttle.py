#!/usr/bin/env python3
"""A TCP relay that holds one server to a rate: S3 slower than the origin.

    throttle.py LISTEN_PORT TARGET_PORT BYTES_PER_SECOND

The rate holds for each direction over all connections together. Backpressure is TCP's own.
"""
import asyncio
import sys
import time

PIECE = 64 * 1024


class Bucket:
    """Bytes per second, at most a quarter of a second saved up."""

    def __init__(self, rate):
        self.rate, self.free_at = rate, 0.0

    async def take(self, size):
        now = time.monotonic()
        self.free_at = max(self.free_at, now - 0.25) + size / self.rate
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)


async def pump(reader, writer, bucket):
    try:
        while data := await reader.read(PIECE):
            await bucket.take(len(data))
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (ConnectionError, OSError):
        writer.close()


async def main():
    listen, target, rate = (int(word) for word in sys.argv[1:])
    up, down = Bucket(rate), Bucket(rate)

    async def serve(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=PIECE)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer, up), pump(far_reader, writer, down))
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", listen, limit=PIECE)
    async with server:
        await server.serve_forever()


asyncio.run(main())
