//! HTTP/1 as octets: bytes to values and back, without a socket, a clock or a thread.
//!
//! In reading order: [`detect`] tells HTTP from what else may arrive, [`head`] finds where a head
//! ends, [`request`] and [`response`] turn a head into a value and write it for the next hop,
//! [`chunked`] finds the end of a chunked body. Below them: [`field`] knows the names that matter,
//! [`target`] reads request-targets and authorities, [`framing`] says where content ends, [`hop`]
//! what must not travel further, [`via`] who handled the message before.
//!
//! One rule is above all others: a message that two recipients could read in two ways is refused,
//! never repaired. Parsing allocates nothing; a value borrows the octets it was read from.

pub mod chunked;
pub mod detect;
pub mod field;
pub mod framing;
pub mod head;
pub mod hop;
pub mod request;
pub mod response;
pub mod target;
mod trailer;
pub mod via;

pub use chunked::{ChunkError, ChunkLimits, Chunked, Piece};
pub use field::{Field, Known, Slots};
pub use framing::{Framing, FramingError, ResponseFraming};
pub use head::{HeadError, Limits, Method, Persistence, Version};
pub use request::{Outgoing, RequestHead};
pub use response::{Recode, ResponseHead, ResponseOutgoing};
pub use target::{Authority, OriginForm, Scheme, Target, TargetError};
