//! One integration binary: a module a feature.
