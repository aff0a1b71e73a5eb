//! What clients of a listener speak, and how they are answered.

/// What a listener is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Front {
    /// A forward proxy.
    #[default]
    Forward,
    /// The admin listener: it tells how the proxy does.
    Admin,
}
