"""A gRPC client of the gateway whose users are recognised by a key or a token in metadata.

    grpc_recipe.py key|token ADDRESS

The server is peers/grpc_server.py. The client prints how many servers its users are on. After a line of input, the
name of a server that is gone, every user calls again.
"""

import sys
import threading
from concurrent import futures

import grpc

USERS = 12
CALLS = 64

mode, address = sys.argv[1], sys.argv[2]
channel = grpc.insecure_channel(address)
unary = channel.unary_unary("/peers.Echo/Unary")
many = channel.unary_stream("/peers.Echo/Many")
collect = channel.stream_unary("/peers.Echo/Collect")
chat = channel.stream_stream("/peers.Echo/Chat")
slow = channel.unary_unary("/peers.Echo/Slow")


class User:
    def __init__(self, number):
        # A key is the same in every call. A token is told in the first response.
        self.metadata = [("x-user-id", f"user {number}")] if mode == "key" else []

    def call(self):
        """The server of this user."""
        reply, call = unary.with_call(b"hello", metadata=self.metadata, timeout=30)
        if mode == "token":
            told = dict(call.initial_metadata()).get("x-sticky")
            self.metadata = [("x-sticky", told)] if told else self.metadata
        return reply.split(b" ")[0]


def check(user, server):
    """Calls of every kind reach the server of the user."""
    assert user.call() == server
    assert list(many(b"20", metadata=user.metadata, timeout=30)) == [b"%s %d" % (server, n) for n in range(20)]
    assert collect((b"x" * 100 for _ in range(20)), metadata=user.metadata, timeout=30) == server + b" 2000"
    replies = list(chat((b"%d" % number for number in range(20)), metadata=user.metadata, timeout=30))
    assert replies == [b"%s %d" % (server, number) for number in range(20)], replies
    # Many calls at once on one connection, each with its own server.
    calls = [unary.future(b"%d" % number, metadata=user.metadata, timeout=30) for number in range(CALLS)]
    assert [call.result() for call in calls] == [b"%s %d" % (server, number) for number in range(CALLS)]
    try:
        slow(b"", metadata=user.metadata, timeout=0.3)
        raise AssertionError("the deadline has passed")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


users = [User(number) for number in range(USERS)]
before = [user.call() for user in users]
with futures.ThreadPoolExecutor(USERS) as pool:
    list(pool.map(check, users, before))
print(f"{USERS} users on {len(set(before))} servers", flush=True)

# A stream that is open when its server is killed.
gone = None
broken = threading.Event()


def hold(user):
    try:
        slow(b"", metadata=user.metadata, timeout=30)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        broken.set()


first = threading.Thread(target=hold, args=[users[0]])
first.start()
print(before[0].decode(), flush=True)
gone = sys.stdin.readline().strip().encode()
first.join()
assert broken.is_set(), "a call in flight ends with UNAVAILABLE"
after = [user.call() for user in users]
moved = sum(new != gone for old, new in zip(before, after) if old == gone)
kept = sum(new == old for old, new in zip(before, after) if old != gone)
# And there they stay.
assert [user.call() for user in users] == after
print(f"{moved + kept} of {USERS}", flush=True)
