//! The clients people use, a file a subject, each through the real binary to a real server.
//!
//! What they got is compared with what there is, and the proxy's access log says that it really went
//! through the proxy, over how many connections, and how each exchange ended.

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
