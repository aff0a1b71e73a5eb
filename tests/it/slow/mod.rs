//! Tests that work or wait for long: much of everything, and tables of every way to leave. Some measure
//! how long something takes, and fail when many tests run at a time. `make test-slow` runs them, and
//! `make test-fast` leaves them out.

mod auth_line;
mod bad_files;
mod dialing;
mod faults_resets;
mod faults_resets_upstream;
mod limits;
mod lists;
mod pool;
mod soak;
mod soak_access;
mod soak_mixed;
mod splice;
