//! HTTP as octets: bytes to values and back, without a socket, a clock or a thread.
