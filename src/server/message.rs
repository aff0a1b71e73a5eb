//! What goes through the ready queue.

/// What a worker takes from the queue.
pub enum Message<J> {
    /// A session that can go on.
    Ready(J),
    /// The worker that takes it ends.
    Stop,
}

/// A session on its way through the queue.
pub trait Queued {
    /// It goes into the queue.
    fn enqueued(&mut self);

    /// Whether it stands in the line of streams.
    fn is_streaming(&self) -> bool;
}
