//! The clients that people use, one file for each subject, each through the real binary to a real
//! server.
//!
//! The tests compare what the clients got with what the server has. The proxy's access log shows that
//! everything went through the proxy, over how many connections, and how each exchange ended.

mod balancers;
mod blocked;
pub(crate) mod browser;
mod downloads;
mod framing;
mod git;
mod load;
mod node;
mod origin;
mod packages;
mod python;
