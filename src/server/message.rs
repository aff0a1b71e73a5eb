//! The entries of the ready queue.

/// An entry of the queue.
pub enum Message<J> {
    /// A session that can go on.
    Ready(J),
    /// Ends the worker that takes it.
    Stop,
}

/// A session on its way through the queue.
pub trait Queued {
    /// Called when it goes into the queue.
    fn enqueued(&mut self);

    /// Whether it belongs in the line of streams.
    fn is_streaming(&self) -> bool;
}
