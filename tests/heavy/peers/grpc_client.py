"""Calls of every kind through a gateway: ADDRESS [CA]. Fails with the first that is not as expected."""

import sys
import time

import grpc

TOKEN = "x-sticky"
OPTIONS = [("grpc.max_receive_message_length", 16 << 20)]

address = sys.argv[1]
if len(sys.argv) > 2:
    credentials = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
    channel = grpc.secure_channel(address, credentials, OPTIONS)
else:
    channel = grpc.insecure_channel(address, OPTIONS)

unary = channel.unary_unary("/peers.Echo/Unary")
many = channel.unary_stream("/peers.Echo/Many")
collect = channel.stream_unary("/peers.Echo/Collect")
chat = channel.stream_stream("/peers.Echo/Chat")
slow = channel.unary_unary("/peers.Echo/Slow")
fail = channel.unary_unary("/peers.Echo/Fail")


def session():
    """The server of a new session, and the metadata by which its calls return there."""
    reply, call = unary.with_call(b"hello", timeout=60)
    server, text = reply.split(b" ", 1)
    assert text == b"hello", reply
    assert dict(call.trailing_metadata())["x-trailer"] == "end", call.trailing_metadata()
    return server, [(TOKEN, dict(call.initial_metadata())[TOKEN])]


servers = set()
for _ in range(4):
    server, token = session()
    servers.add(server)
    for _ in range(10):
        assert unary(b"again", metadata=token, timeout=60) == server + b" again"
    large = b"x" * (4 << 20)
    assert unary(large, metadata=token, timeout=60) == server + b" " + large
    replies = list(many(b"500", metadata=token, timeout=60))
    assert replies == [b"%s %d" % (server, number) for number in range(500)], replies[:3]
    requests = (b"x" * 1000 for _ in range(500))
    assert collect(requests, metadata=token, timeout=60) == server + b" 500000"

    # Each message waits for the reply to the one before.
    replies = []

    def turns():
        for number in range(20):
            while len(replies) < number:
                time.sleep(0.001)
            yield b"%d" % number

    for reply in chat(turns(), metadata=token, timeout=60):
        replies.append(reply)
    assert replies == [b"%s %d" % (server, number) for number in range(20)], replies

    try:
        fail(b"", metadata=token, timeout=60)
        raise AssertionError("it fails")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert error.details() == "no such näme", error

    began = time.monotonic()
    try:
        slow(b"", metadata=token, timeout=0.5)
        raise AssertionError("its deadline passes")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - began < 30, "soon"

assert len(servers) == 2, servers
print("ok")
