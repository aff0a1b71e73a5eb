//! What is told about the proxy's work: counters and the access log.
