"""A gRPC server without generated code: NAME [CERTIFICATE KEY]. Prints its port, and the ends of slow calls."""

import sys
import threading
from concurrent import futures

import grpc

name = sys.argv[1].encode()
lock = threading.Lock()


def say(text):
    with lock:
        print(text, flush=True)


def unary(request, context):
    context.set_trailing_metadata([("x-trailer", "end")])
    return name + b" " + request


def many(request, context):
    for number in range(int(request)):
        yield b"%s %d" % (name, number)


def collect(requests, context):
    return b"%s %d" % (name, sum(len(request) for request in requests))


def chat(requests, context):
    for request in requests:
        yield name + b" " + request


def slow(request, context):
    # The deadline as the gateway passes it on.
    over = threading.Event()
    say("remaining %.1f" % (context.time_remaining() or -1))
    context.add_callback(over.set)
    over.wait(60)
    say("over")
    return b""


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such näme")


def check(request, context):
    # A HealthCheckRequest with the name of the service, and a HealthCheckResponse with SERVING.
    if request[2:] != b"peers.Echo":
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x01"


HANDLERS = {
    "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(check),
    "/peers.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/peers.Echo/Many": grpc.unary_stream_rpc_method_handler(many),
    "/peers.Echo/Collect": grpc.stream_unary_rpc_method_handler(collect),
    "/peers.Echo/Chat": grpc.stream_stream_rpc_method_handler(chat),
    "/peers.Echo/Slow": grpc.unary_unary_rpc_method_handler(slow),
    "/peers.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return HANDLERS.get(details.method)


server = grpc.server(
    futures.ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 16 << 20)]
)
server.add_generic_rpc_handlers([Handler()])
if len(sys.argv) > 2:
    certificate, key = (open(path, "rb").read() for path in sys.argv[2:4])
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    say(server.add_secure_port("127.0.0.1:0", credentials))
else:
    say(server.add_insecure_port("127.0.0.1:0"))
server.start()
server.wait_for_termination()
