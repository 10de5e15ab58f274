"""A bucket on a real S3 server of this machine that answers late, as one far away does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

BUCKET = "archives"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-benchmark",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-benchmark",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def slow_bucket(latency_s: float) -> Iterator[str]:
    """The address of an empty bucket, each of whose answers takes `latency_s` longer.

    The environment holds its credentials; the server is a process of its own, that shares
    nothing but the machine's cores with what is measured.
    """
    command = [sys.executable, __file__, str(latency_s)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            os.environ |= {**_CREDENTIALS, "AWS_ENDPOINT_URL": address}
            urlopen(Request(f"{address}/{BUCKET}", method="PUT")).close()
            yield f"s3://{BUCKET}"
        finally:
            process.terminate()


async def _serve(latency_s: float) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    async def pass_on(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float
    ) -> None:
        while data := await source.read(2**20):
            await asyncio.sleep(delay_s)
            sink.write(data)
            await sink.drain()
        sink.close()

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, port)
        await asyncio.gather(
            pass_on(reader, to_server, 0.0),
            pass_on(from_server, writer, latency_s),
            return_exceptions=True,
        )

    proxy = await asyncio.start_server(serve_client, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", flush=True)
    await proxy.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
