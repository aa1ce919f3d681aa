//! Streams of HTTP/2: the backend's limit, GOAWAY, refused streams and pings.
