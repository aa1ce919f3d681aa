//! The recipes of the guide, with the clients and servers that they are about. Each runs the configuration that its
//! page prints.

mod grpc;
mod mcp;
mod page;
mod scripts;
mod signalr;
mod socket_io;
mod tus;
mod websocket;
