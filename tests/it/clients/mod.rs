//! Tests with programs that somebody has to install: clients and servers people use, and programs that
//! judge what the proxy writes. `make test-clients` runs them, `make test-fast` leaves them out.
//!
//! Each test runs the real binary between real peers. It compares what a client got with what there is,
//! and the access log says that it really went through the proxy, over how many connections, and how
//! each exchange ended. `installed` finds the programs, and only tests in here can reach it.

mod adguard;
mod balancers;
mod blocked;
mod browser;
mod clock;
mod completions;
mod content;
mod downloads;
mod faults_upstream;
mod forwarded;
mod framing;
mod git;
mod guide;
mod installed;
mod lists;
mod load;
mod log_destinations;
mod log_formats;
mod logins;
mod metrics;
mod node;
mod origin;
mod packages;
mod python;
mod readme;
mod sni;
mod tools;
mod users;
