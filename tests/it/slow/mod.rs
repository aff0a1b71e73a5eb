//! Tests that work or wait for long: much of everything, tables of every way to leave, files without end.
//! `make test-slow` runs them, `make test-fast` leaves them out.

mod auth_line;
mod bad_files;
mod faults_resets;
mod faults_resets_upstream;
mod lists;
mod pool;
mod soak;
mod soak_access;
mod soak_mixed;
mod splice;
