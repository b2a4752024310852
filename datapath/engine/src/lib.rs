//! How bytes move in l7mp: sockets and buffers on io_uring.
